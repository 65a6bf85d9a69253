"""Why a request is not answered, and the limits that requests have to keep."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = 16 << 10
"""Most bytes of a request's head: its address and its headers."""


class Refused(Exception):
    """The answer to a request is ``status``, 400 or above, and one line that says what to do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may cost.

    ``bytes`` is the most a body may have and ``pixels`` what the pictures in it may have together; ``queue`` requests wait
    for the network beside the one it works on; a body, and then an answer, may take ``seconds``. Of ``connections`` the
    last ones are answered with 503.
    """

    bytes: int = 16 << 20
    pixels: int = 4_000_000
    queue: int = 16
    seconds: float = 30.0
    connections: int = 512
