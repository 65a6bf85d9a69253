"""U2PL and U2PL on AEL."""
