"""How every command ends: 0 for success, 1 for a failed check, 2 for bad use; one line to the user."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right; the text is one line: what is wrong, where, what to do."""


class CheckFailed(Exception):
    """A check ran to its end and its answer is no (a parity gate, a verification)."""


class Interrupted(Exception):
    """A run was asked to stop (SIGTERM, Ctrl-C) and has saved its state."""
