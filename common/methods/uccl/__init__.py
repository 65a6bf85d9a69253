"""UCCL, UniMatch and FixMatch: settings, augmentation and host-side draws."""
