"""CPCL and CPS."""
