"""``python -m common.make_subclasses``: USRN's subclass labels by balanced clustering."""
