"""Logs with `alternatives/` and `contexts/`, and how their rows are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import rocktok
from rocktok.log import LogWriter
from tests.logs import RUN, alternatives_rows, context_rows, rows

LISTS = ("student_ids", "student_probs", "teacher_ids", "teacher_probs")
COLUMNS = {"alternatives": LISTS, "contexts": ("context",)}


def write(
    path: Path, steps: tuple[int, ...] = (0, 10), sequences: int = 8, k: int = 5, **options: Any
) -> Path:
    """fixed/ at some steps with alternatives at each, contexts at the first; a shard a step."""
    with LogWriter(path, run=RUN, **options) as writer:
        for number, step in enumerate(steps):
            writer.write(rows(step, range(sequences)), table="fixed")
            writer.write(alternatives_rows(step, range(sequences), k=k), table="alternatives")
            if not number:
                writer.write(context_rows(step, range(sequences)), table="contexts")
            for table in ("fixed", "alternatives", "contexts"):
                writer.finish_step(step, table)
            writer.flush()
    return path


def read(path: Path, table: str, steps: list[int] | None = None, **options: Any) -> dict[str, Any]:
    """All rows of a table, in the order in which they are read."""
    log = rocktok.log.open_log(path, **options)
    parts = [part.columns for part in log.scan(table, COLUMNS[table], steps)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def stored(batch: dict[str, Any]) -> dict[str, Any]:
    """As it comes back: probabilities have been float16."""
    return {
        name: values.astype(np.float16).astype(np.float32) if name.endswith("probs") else values
        for name, values in batch.items()
    }


def assert_rows(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], name)


def both(*batches: dict[str, Any]) -> dict[str, Any]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
