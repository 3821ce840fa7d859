"""Short names of logs, and what every table says of a log."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any


def labels(paths: Sequence[str]) -> list[str]:
    """Short names of logs that tell them apart: what is left after their common beginning."""
    shared = os.path.commonpath(paths) if len(set(paths)) > 1 and _alike(paths) else ""
    short = [path[len(shared) :].strip("/") or path for path in paths]
    return [
        name if short.count(name) == 1 else f"{name} ({at + 1})" for at, name in enumerate(short)
    ]


def _alike(paths: Sequence[str]) -> bool:
    plain = all("://" not in path for path in paths)
    return plain and len({path.startswith("/") for path in paths}) == 1


def contexts_of_rocks(log: Mapping[str, Any]) -> list[str]:
    """A line on how the contexts of the rocks were compared, where they were found; else none."""
    similarity = log.get("similarity")  # older files have none
    if similarity is None:
        return []
    if similarity == "hidden":
        return ["contexts of rocks: hidden states of the teacher"]
    return [f"contexts of rocks: windows of tokens ({similarity})"]


def left_out(log: Mapping[str, Any]) -> list[str]:
    """A line where shards were left out, else none; `log`: its identity in any result."""
    shards = log["skipped_shards"]
    return [f"{shards} damaged or missing shards left out"] if shards else []
