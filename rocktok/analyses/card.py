"""A result as a card in a notebook: the answer, the first rows of its table, its notes folded.

HTML that needs no script, and no style to be read. Colours are those of the notebook's theme, light
or dark: lines and asides are shades of its own text.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from rocktok.errors import printable

if TYPE_CHECKING:
    import pandas as pd

#: Rows of the table that a card shows.
ROWS = 20

#: Characters of a text that is never broken into lines: most tokens.
SHORT = 24

_STYLE = """
.rocktok-card { max-width: 100%; padding: 0.6em 0.9em; border: 1px solid rgba(128, 128, 128, 0.4); border-radius: 6px; }
.rocktok-card p { margin: 0 0 0.5em; max-width: 52em; }
.rocktok-card .rows { overflow: auto; max-height: 32em; }
.rocktok-card table { margin: 0; border-collapse: collapse; font-size: 0.9em; font-variant-numeric: tabular-nums; }
.rocktok-card th, .rocktok-card td { padding: 0.15em 0.6em; text-align: right; vertical-align: top; border: 0; border-bottom: 1px solid rgba(128, 128, 128, 0.2); }
.rocktok-card th.text, .rocktok-card td.text { text-align: left; max-width: 36em; }
.rocktok-card td.text { white-space: pre-line; overflow-wrap: break-word; }
.rocktok-card td.short { white-space: pre; }
.rocktok-card .more, .rocktok-card details { opacity: 0.75; font-size: 0.9em; margin: 0.4em 0 0; }
.rocktok-card summary { cursor: pointer; }
.rocktok-card ul { margin: 0.3em 0 0; padding-left: 1.3em; max-width: 58em; }
"""  # noqa: E501


def card(answer: Iterable[str], frame: pd.DataFrame, notes: Iterable[str]) -> str:
    """HTML of a result.

    Args:
        answer: lines; the first is shown by itself, bold.
        frame: the table, of which the first 20 rows are shown.
        notes: what a reader of the numbers must know; folded.
    """
    lines = [escape(printable(line)) for line in answer]
    parts = [f"<style>{_STYLE}</style>"]
    if lines:
        rest = "".join(f"<br>{line}" for line in lines[1:])
        parts.append(f"<p><strong>{lines[0]}</strong>{rest}</p>")
    if len(frame):
        parts.append(f'<div class="rows">{_table(frame)}</div>')
    if (more := len(frame) - ROWS) > 0:
        rows = "row" if more == 1 else "rows"
        parts.append(f'<p class="more">… {more:,} more {rows} in <code>.table</code></p>')
    items = [f"<li>{escape(printable(note))}</li>" for note in notes]
    if items:
        parts.append(
            f"<details><summary>Notes ({len(items)})</summary><ul>{''.join(items)}</ul></details>"
        )
    return f'<div class="rocktok-card">{"".join(parts)}</div>'


def _table(frame: pd.DataFrame) -> str:
    """The first rows, every cell escaped; columns without a value in any row are left out."""
    filled = frame.loc[:, (frame.notna() & (frame != "")).any()]
    columns = {str(name): list(values) for name, values in filled.head(ROWS).items()}
    texts = [any(isinstance(v, str | list | tuple) for v in c) for c in columns.values()]
    heads = "".join(map(_cell, repeat("th"), columns, texts))
    body = "".join(
        f"<tr>{''.join(map(_cell, repeat('td'), row, texts))}</tr>"
        for row in zip(*columns.values(), strict=True)
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _cell(kind: str, value: object, text: bool) -> str:
    shown = printable(_shown(value))
    looks = [*(["text"] if text else []), *(["short"] if len(shown) <= SHORT else [])]
    named = f' class="{" ".join(looks)}"' if text else ""
    return f"<{kind}{named}>{escape(shown)}</{kind}>"


def _shown(value: object) -> str:
    """A number to four digits, a list by its members, a dash for what is absent."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return str(value)
