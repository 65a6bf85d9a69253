"""USRN and its baseline: settings, augmentation, subclass labels."""
