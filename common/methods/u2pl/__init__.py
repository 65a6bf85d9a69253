"""U2PL and U2PL on AEL: settings and host-side draws."""
