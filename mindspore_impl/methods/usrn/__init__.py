"""USRN."""
