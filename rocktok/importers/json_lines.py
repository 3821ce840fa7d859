"""JSON Lines, one object at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rocktok.errors import LogError


def json_lines(path: Path, notes: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file: line n", object) of each line that is not empty.

    A last line without an end, as a killed process leaves it, is noted, and left out.

    Raises `LogError` for a line that is no object.
    """
    whole = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                where = f"{path}: line {number}"
                try:
                    content = json.loads(line)
                except ValueError as error:
                    if not line.endswith(b"\n") and whole:
                        notes.append(f"{where}: the last line is cut, and left out")
                        return
                    raise LogError(f"{where}: is not JSON ({_reason(error)})") from error
                if not isinstance(content, dict):
                    raise LogError(f"{where}: is not an object; each line must be one")
                whole += 1
                yield where, content
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror or error})") from error


def _reason(error: ValueError) -> str:
    return getattr(error, "msg", None) or str(error).splitlines()[0]


def need(content: dict[str, Any], key: str, where: str, kind: type | tuple[type, ...]) -> Any:
    """A value of an object. Raises `LogError` if it is absent, or of another type."""
    if key not in content:
        raise LogError(f"{where}: has no {key}; it is not a file of this kind")
    value = content[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = _WORDS.get(kind, "of another type")
        raise LogError(f"{where}: {key} is {_short(value)}; it must be {wanted}")
    return value


_WORDS: dict[Any, str] = {list: "a list", int: "an integer", dict: "an object", str: "text"}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
