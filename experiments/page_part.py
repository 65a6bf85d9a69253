"""A part of a page that a command writes: what stands between two comments of the page that name it."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from common.files import read_bytes, write_text_atomic
from common.paths import PROJECT

SCALE = PROJECT / "docs" / "scale.md"
"""The page about training at the papers' scale."""


def put(page: Path, name: str, text: str) -> None:
    """Replace the part ``name`` of ``page``; raises :class:`UserError` if the page has no such part."""
    before, _, after = _cut(page, name)
    write_text_atomic(page, f"{before}\n{text.strip()}\n{after}")
    print(f"written: {name} in {page}")


def part(page: Path, name: str) -> str:
    """Return what stands there now."""
    return _cut(page, name)[1].strip()


def _cut(page: Path, name: str) -> tuple[str, str, str]:
    try:
        text = read_bytes(page).decode()
    except UnicodeDecodeError as error:  # written back, replaced characters would be lost
        raise UserError(f"{page}: not a text in UTF-8 ({error})") from None
    start, end = f"<!-- {name}: written by", f"<!-- end of {name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise UserError(f"{page} has no part between '{start} ... -->' and '{end}'")
    opening = text.index("-->", text.index(start)) + len("-->")
    closing = text.index(end)
    return text[:opening], text[opening:closing], text[closing:]
