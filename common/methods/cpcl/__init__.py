"""CPCL and CPS: settings, augmentation and host-side draws."""
