"""Results as mappings and as indented JSON, as `asdict` and `json.dumps` make them, in less time.

`asdict` copies every number, and `json` leaves its compiled encoder for an indent: with every token
type listed, both took longer than the analysis.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from json.encoder import encode_basestring as _quote
from typing import Any

#: Values that hold no others.
_SINGLE = frozenset((str, int, float, bool, type(None)))


#: Lists and mappings that hold nothing, and nothing itself.
_EMPTY = {list: "[]", tuple: "[]", dict: "{}", type(None): "null"}


def as_plain(value: Any) -> Any:
    """A dataclass as a dict of its fields, and so what it holds; other values as they are."""
    kind = type(value)
    if kind in _SINGLE:
        return value
    if kind is dict:
        return {key: one if type(one) in _SINGLE else as_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        held = [one if type(one) in _SINGLE else as_plain(one) for one in value]
        return kind(*held) if hasattr(value, "_fields") else kind(held)
    if isinstance(value, dict):
        return kind((key, as_plain(one)) for key, one in value.items())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    return value


def indented(value: object, *, ascii_only: bool = False) -> str:
    """`json.dumps(value, indent=1, allow_nan=False)`, byte for byte.

    Args:
        ascii_only: `ensure_ascii`.

    Raises:
        ValueError: NaN or an infinity.
        TypeError: a value or a key that JSON does not have.
    """
    return _indented(value, 0, ascii_only)


def _indented(value: object, depth: int, ascii_only: bool) -> str:
    if isinstance(value, dict) and value:
        opening, closing = "{", "}"
        parts = _items(value.items(), depth + 1, ascii_only)
    elif isinstance(value, list | tuple) and value:
        opening, closing = "[", "]"
        parts = _rows(value, depth + 1, ascii_only)
    elif value is None or type(value) in _EMPTY:
        return _EMPTY[type(value)]
    else:
        return _encoder(0, ascii_only)(value)
    inner = "\n" + " " * (depth + 1)
    return f"{opening}{inner}{f',{inner}'.join(parts)}\n{' ' * depth}{closing}"


def _items(items: Iterable[tuple[Any, Any]], depth: int, ascii_only: bool) -> Iterator[str]:
    """Keys and values: neighbours that hold no others in one piece, which is encoded at once."""
    encode = _encoder(depth, ascii_only)
    run: dict[Any, Any] = {}
    for key, value in items:
        if type(value) in _SINGLE:
            run[key] = value
            continue
        if run:
            yield encode(run)[1:-1]
            run = {}
        # A key as JSON has it, whatever it is here.
        name = f"{_quote(key)}: " if type(key) is str and not ascii_only else None
        yield (name or encode({key: None})[1:-5]) + _indented(value, depth, ascii_only)
    if run:
        yield encode(run)[1:-1]


def _rows(values: Iterable[object], depth: int, ascii_only: bool) -> Iterator[str]:
    encode = _encoder(depth, ascii_only)
    run: list[object] = []
    for value in values:
        if type(value) in _SINGLE:
            run.append(value)
            continue
        if run:
            yield encode(run)[1:-1]
            run = []
        yield _indented(value, depth, ascii_only)
    if run:
        yield encode(run)[1:-1]


@cache
def _encoder(depth: int, ascii_only: bool) -> Callable[[object], str]:
    """The compiled encoder, with line breaks and blanks of a depth between what it is given."""
    return json.JSONEncoder(
        ensure_ascii=ascii_only, allow_nan=False, separators=(",\n" + " " * depth, ": ")
    ).encode
