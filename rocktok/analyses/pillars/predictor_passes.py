"""Numbers by token that other commands wrote, as predictors of the effects."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from rocktok.errors import LogError
from rocktok.files import local_path

_WANTED = (
    "give what `rocktok detect` or `rocktok attribute` writes with --format json or csv: rows with "
    "token_id"
)


def load_predictors(path: str | os.PathLike[str]) -> dict[str, dict[int, float]]:
    """Column → token id → value, of the columns with numbers of a JSON or CSV file.

    In JSON the rows are those of the key `tokens`. Values that are missing or not finite are left
    out, and columns that hold anything but numbers.

    Raises `LogError` for a file that cannot be read or has no such rows.
    """
    name = os.fspath(path)
    try:
        text = local_path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise LogError(f"{name}: cannot be read ({why}); {_WANTED}") from error
    rows = _of_csv(text) if name.endswith(".csv") else _of_json(text, name)
    found: dict[str, dict[int, float]] = {}
    words = {"token_id", "token"}
    try:
        for row in rows:
            token_id = int(row["token_id"])
            for column, value in row.items():
                if column in words or value is None or value == "":
                    continue
                number = _number(value)
                if number is None:
                    words.add(column)
                elif math.isfinite(number):
                    found.setdefault(column, {})[token_id] = number
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LogError(f"{name}: has a row without token_id; {_WANTED}") from error
    found = {column: values for column, values in found.items() if column not in words}
    if not found:
        raise LogError(f"{name}: has no numbers by token; {_WANTED}")
    return found


def _of_csv(text: str) -> Iterable[Mapping[str, Any]]:
    return csv.DictReader(text.splitlines())


def _of_json(text: str, name: str) -> Iterable[Mapping[str, Any]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LogError(f"{name}: is not JSON ({error}); {_WANTED}") from error
    rows = content.get("tokens") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise LogError(f"{name}: has no rows by token; {_WANTED}")
    return rows


def _number(value: Any) -> float | None:
    """A number, or the text of one; truth values are 0 and 1; None for all else."""
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value, value)
    if not isinstance(value, bool | int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
