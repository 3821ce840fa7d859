"""Rows of the tables beside `fixed`, drawn by (sequence, position): any cut has the same ones."""

from __future__ import annotations

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
    parts: list[dict[str, Any]] = []
    keys = zip(rows["step"], rows["sequence_id"], rows["position"], strict=True)
    for step, sequence, position in keys:
        rng = np.random.default_rng([seed, step, sequence, position])
        if rng.random() >= share:
            continue
        row: dict[str, Any] = {"step": step, "sequence_id": sequence, "position": position}
        for model in ("student", "teacher"):
            row[f"{model}_ids"] = rng.choice(vocab, k, replace=False)
            probability = rng.random(k) / k
            row[f"{model}_probs"] = -np.sort(-probability.astype(np.float16))
        parts.append(row)
    return _columns("alternatives", parts, k)


def contexts(rows: Rows, *, share: float = 1.0, seed: int = 0) -> Rows:
    """Contexts of a share of some rows of fixed/."""
    parts: list[dict[str, Any]] = []
    keys = zip(rows["step"], rows["sequence_id"], rows["position"], strict=True)
    for step, sequence, position in keys:
        rng = np.random.default_rng([seed, 1, sequence, position])
        if rng.random() < share:
            context = rng.integers(0, 256, 32)
            parts.append({"step": step, "sequence_id": sequence, "position": position,
                          "context": context})  # fmt: skip
    return _columns("contexts", parts, 32)


def _columns(table: str, parts: list[dict[str, Any]], width: int) -> Rows:
    types = {"step": np.int32, "sequence_id": np.int64, "position": np.int32, "context": np.uint8}
    columns = {}
    for name in schema.required_names(table):
        dtype = types.get(name, np.int32 if name.endswith("_ids") else np.float16)
        shape = (-1, width) if name not in ("step", "sequence_id", "position") else (-1,)
        columns[name] = np.array([part[name] for part in parts], dtype=dtype).reshape(shape)
    return columns


def picked(rows: Rows, chosen: np.ndarray[Any, Any]) -> Rows:
    """Some of the rows, by a mask or by numbers."""
    return {name: values[chosen] for name, values in rows.items()}


def write_by_hand(path: Path, rows: Rows, table: str, name: str = "a", **options: Any) -> Path:
    """One shard by pyarrow, as someone without our writer would make it."""
    target = path / table / f"{name}.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    fields = {field.name: field.type for field in schema_of(table)}
    arrays = {
        name: pa.array([bytes(v) if name == "context" else v for v in values], fields[name])
        for name, values in rows.items()
    }
    pq.write_table(pa.table(arrays), target, **options)
    return path


def schema_of(table: str) -> Any:
    """Arrow schema of a table with its required columns."""
    return schema.arrow_schema(table)
