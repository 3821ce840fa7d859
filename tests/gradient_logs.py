"""Logs with gradient norms, and sums of gradient vectors, for the tests of `attribute`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rocktok.hashing import sketch
from rocktok.log import LogWriter

TYPES = 14


def frame(seed: int, prompts: int = 60, steps: tuple[int, ...] = (0, 10)) -> pd.DataFrame:
    """Rows of three rollouts a prompt: types 0 … 4 are frequent, and 0 and 1 take most loss."""
    rng = np.random.default_rng(seed)
    count, tokens = prompts * 3, 16
    share = np.arange(TYPES, 0, -1) / np.arange(TYPES, 0, -1).sum()
    text = rng.choice(TYPES, (count, tokens), p=share)
    parts = []
    for step in steps:
        hard = np.where(text < 2, 3.0, 0.4) * rng.exponential(1.0, text.shape)
        parts.append(
            pd.DataFrame(
                {
                    "step": step,
                    "sequence_id": np.repeat(np.arange(count), tokens),
                    "position": np.tile(np.arange(tokens), count),
                    "token_id": text.ravel(),
                    "loss": hard.ravel().astype(np.float32),
                    "grad_norm": (hard * rng.uniform(0.2, 0.6, text.shape))
                    .ravel()
                    .astype(np.float32),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def gradient_rows(width: int = 50, dims: int = 0, types: int = 12) -> dict[str, Any]:
    """Sums of both halves, in which types 0 … 5 point one way, and 6 … 11 anyhow.

    Sketches of `dims`: all types point much the same way.
    """
    rng = np.random.default_rng(8)
    common = rng.normal(size=width)
    vectors = rng.normal(size=(types, 2, width))
    vectors[: types if dims else 6] += 3 * common
    if dims:
        vectors = sketch(vectors.reshape(-1, width), dims, 0).reshape(types, 2, dims)
    kinds, ids = ["global", "balanced"] + ["type"] * types, [-1, -1, *range(types)]
    both = [np.stack([vectors[:, h].sum(axis=0)] * 2 + list(vectors[:, h])) for h in range(2)]
    count = 2 * len(kinds)
    return {
        "step": 10,
        "half": np.repeat([0, 1], len(kinds)),
        "kind": kinds * 2,
        "token_id": ids * 2,
        "count": np.where(np.array(ids * 2) < 0, 4 * types, 4),
        "norm_sum": np.full(count, 40.0),
        "square_sum": np.full(count, 420.0),
        "vector": list(np.concatenate(both).astype(np.float32)),
        "vocab_size": width,
        "sketch_dims": dims,
        "seed": 0,
    }


def write(
    path: Path,
    rows: pd.DataFrame,
    table: str = "fixed",
    ranks: int = 4,
    gradients: dict[str, Any] | None = None,
) -> Path:
    """The rows as a log of some ranks."""
    attempt, run_id = None, None
    ids = np.unique(rows["sequence_id"])
    columns = [c for c in ("grad_norm", "head_grad_norm") if c in rows]
    for rank, part in enumerate(np.array_split(ids, ranks)):
        with LogWriter(
            path,
            columns=columns,
            run={"vocab_size": 50},
            vocab=[(i, f"t{i}", b"t%d" % i) for i in range(50)],
            rank=rank,
            world_size=ranks,
            attempt=attempt,
            run_id=run_id,
        ) as writer:
            attempt, run_id = writer.attempt, writer.run_id
            prompts = [f"p{i // 3}" for i in part]
            facts = {"sequence_id": part, "step": 0, "num_tokens": 16, "prompt_id": prompts}
            writer.write(facts, table="sequences")
            for step, held in rows[rows["sequence_id"].isin(part)].groupby("step"):
                writer.write(held, table=table)
                writer.finish_step(int(step), table)
                writer.flush()
            if gradients is not None:
                writer.write(gradients, table="gradients")
                writer.finish_step(10, "gradients")
    return path
