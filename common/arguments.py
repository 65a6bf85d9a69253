"""Types of command line options that several commands share."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Return a whole number of at least 1; for ``type=`` of argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
