"""Rows of the tables beside `fixed`, drawn by (sequence, position): any cut has the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import rocktok.schema as schema

Rows = dict[str, np.ndarray[Any, Any]]


def alternatives(
    rows: Rows, k: int = 3, *, share: float = 1.0, vocab: int = 50, seed: int = 0
) -> Rows:
    """Alternatives of a share of some rows of fixed/: k distinct ids a model, likeliest first."""
    parts = []
    for of_sequence, rng in _sequences(rows, seed, with_step=True):
        part, count = dict(of_sequence), len(of_sequence["step"])
        for model in ("student", "teacher"):
            part[f"{model}_ids"] = np.argsort(rng.random((count, vocab)))[:, :k].astype(np.int32)
            part[f"{model}_probs"] = -np.sort(-(rng.random((count, k)) / k).astype(np.float16))
        parts.append(picked(part, rng.random(count) < share))
    return joined(parts)


def contexts(rows: Rows, *, share: float = 1.0, seed: int = 0) -> Rows:
    """Contexts of a share of some rows of fixed/."""
    parts = []
    for of_sequence, rng in _sequences(rows, seed, with_step=False):
        count = len(of_sequence["step"])
        context = rng.integers(0, 256, (count, schema.CONTEXT_BYTES), dtype=np.uint8)
        parts.append(picked({**of_sequence, "context": context}, rng.random(count) < share))
    return joined(parts)


def _sequences(rows: Rows, seed: int, *, with_step: bool) -> Iterator[tuple[Rows, Any]]:
    """Keys of each sequence at a step, and what its rows are drawn from."""
    keys = {name: rows[name] for name in ("step", "sequence_id", "position")}
    for step, sequence in sorted(set(zip(*list(keys.values())[:2], strict=True))):
        here = (rows["step"] == step) & (rows["sequence_id"] == sequence)
        of_step = (int(step),) if with_step else ()
        yield picked(keys, here), np.random.default_rng([seed, *of_step, int(sequence)])


def joined(parts: list[Rows]) -> Rows:
    """The rows of all parts, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def picked(rows: Rows, chosen: np.ndarray[Any, Any]) -> Rows:
    """Some of the rows, by a mask or by numbers."""
    return {name: values[chosen] for name, values in rows.items()}


def write_by_hand(path: Path, rows: Rows, table: str, name: str = "a", **options: Any) -> Path:
    """One shard by pyarrow, as someone without our writer would make it."""
    target = path / table / f"{name}.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        field.name: field.type for field in schema.arrow_schema(table, _optional(table, rows))
    }
    arrays = {name: _arrow(values, fields[name]) for name, values in rows.items()}
    pq.write_table(pa.table(arrays), target, **options)
    return path


def _optional(table: str, rows: Rows) -> list[str]:
    return [name for name in rows if name not in schema.required_names(table)]


def _arrow(values: np.ndarray[Any, Any], kind: Any) -> Any:
    if values.ndim == 1:
        return pa.array(values, kind)
    if pa.types.is_fixed_size_binary(kind):
        return pa.array([bytes(value) for value in values], kind)
    flat = pa.array(values.ravel(), kind.value_type)
    return pa.ListArray.from_arrays(np.arange(0, values.size + 1, values.shape[1]), flat)
