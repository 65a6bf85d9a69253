"""Self-contained HTML pages: style, tables, legend and pictures inside one file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1080px; padding: 0 1rem; color: #1c2126; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2rem; font-size: 1.2rem; }
table { border-collapse: collapse; margin: .6rem 0; } th, td { padding: .35rem .8rem; border-bottom: 1px solid #d7dce1; }
th { text-align: left; background: #f2f4f6; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.pictures { display: grid; gap: 6px; overflow-x: auto; margin-bottom: 14px; }
.pictures figure { margin: 0; } .pictures img { width: 100%; image-rendering: pixelated; display: block; }
figcaption { font-size: .78rem; color: #57606a; }
.pass { color: #1a7f37; font-weight: 600; } .fail { color: #b42318; font-weight: 600; } svg { max-width: 100%; height: auto; }
.bar { display: inline-block; height: .8em; min-width: 1px; border: 1px solid #8886; box-sizing: border-box; }
.legend span { display: inline-block; margin-right: 1rem; font-size: .85rem; }
.legend i { display: inline-block; width: .9em; height: .9em; margin-right: .3em; vertical-align: -1px; border: 1px solid #8886; }
"""


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return an HTML table; numbers are aligned to the right."""
    cells = "".join(f"<th>{html.escape(str(name))}</th>" for name in head)
    body = ""
    for row in rows:
        parts = [
            f'<td class="number">{value:.4g}</td>'
            if isinstance(value, float)
            else f"<td>{html.escape(str(value))}</td>"
            for value in row
        ]
        body += f"<tr>{''.join(parts)}</tr>"
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def page(title: str, sections: Sequence[str]) -> str:
    """Return a whole page with its style inside."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"{''.join(sections)}</body></html>\n"
    )


def legend(classes: Sequence[str], palette: np.ndarray) -> str:
    """Return the classes with their colours, uint8 ``[256,3]``."""
    items = [
        f'<span><i style="background: rgb({r},{g},{b})"></i>{html.escape(name)}</span>'
        for name, (r, g, b) in zip(classes, palette)
    ]
    return f'<p class="legend">{"".join(items)}</p>'


def spread(names: Sequence[str], count: int) -> list[str]:
    """Return up to ``count`` names, evenly spread over the list."""
    if len(names) <= count or count == 1:
        return list(names[:count])
    return [names[round(index * (len(names) - 1) / (count - 1))] for index in range(count)]
