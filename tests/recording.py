"""Drives a recorder without a trainer, and reads back what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import rocktok
from rocktok.hooks import Recorder
from rocktok.hooks.rollouts import Rollout, prompt_identity

COLUMNS = ("student_logprob",)


def make_recorder(log: Path, **options: Any) -> Recorder:
    return Recorder(log, every=1, columns=COLUMNS, **options)


def make_rollout(sequence_id: int, step: int = 0, prompt: int = 0, length: int = 3) -> Rollout:
    ids = np.array([prompt, 5], dtype=np.int32)
    return Rollout(
        sequence_id=sequence_id,
        step=step,
        prompt_id=prompt_identity(ids),
        prompt_token_ids=ids,
        completion_token_ids=np.arange(length, dtype=np.int32),
        loss_mask=np.ones(length, dtype=np.int8),
        finish_reason="stop",
    )


def rows_of(sequence_id: int, length: int = 3, loss: float = 0.5) -> dict[str, Any]:
    return {
        "sequence_id": np.full(length, sequence_id),
        "position": np.arange(length),
        "token_id": np.arange(length),
        "loss": np.full(length, loss, np.float32),
        "student_logprob": np.full(length, -1.0, np.float32),
    }


def record_step(rec: Recorder, step: int, **options: Any) -> None:
    (sequence_id,) = rec.new_sequence_ids(1).tolist()
    rollout = make_rollout(sequence_id, step)
    rec.record(step, rows_of(sequence_id), rollouts=[rollout], **options)
    rec.finish_step(step)


def read(log: Path, table: str = "rollout") -> dict[str, Any]:
    batches = list(rocktok.open(log).scan(table, ["token_id", "loss"]))
    names = batches[0].columns
    return {name: np.concatenate([b.columns[name] for b in batches]) for name in names}


def sequence_ids(log: Path) -> list[int]:
    shards = sorted((log / "sequences").glob("*.parquet"))
    return [i for shard in shards for i in pq.read_table(shard)["sequence_id"].to_pylist()]


def manifest(log: Path, attempt: int = 0, rank: int = 0) -> dict[str, Any]:
    content = json.loads((log / f"manifest/rank-{rank:05d}-{attempt:02d}.json").read_text())
    assert isinstance(content, dict)
    return content
