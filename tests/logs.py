"""Small logs for tests: written by `LogWriter`, or by hand as a stranger would with pandas."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from rocktok.log import LogWriter

RUN = {"vocab_size": 50, "loss": {"divergence": "reverse_kl", "trained": True, "beta": 1.0,
                                  "exactness": "exact"}}  # fmt: skip


def rows(
    step: int, sequences: range | list[int], tokens: int = 12, seed: int = 0
) -> dict[str, np.ndarray]:
    """Rows of some sequences at a step: the text depends on the sequence, the loss on the step."""
    ids, positions, token_ids, losses = [], [], [], []
    for sequence in sequences:
        text = np.random.default_rng([seed, sequence])
        loss = np.random.default_rng([seed, sequence, step])
        ids.append(np.full(tokens, sequence))
        positions.append(np.arange(tokens))
        token_ids.append(text.integers(0, 50, tokens))
        losses.append(loss.exponential(0.5, tokens))
    return {
        "step": np.full(len(ids) * tokens, step, dtype=np.int32),
        "sequence_id": np.concatenate(ids).astype(np.int64),
        "position": np.concatenate(positions).astype(np.int32),
        "token_id": np.concatenate(token_ids).astype(np.int32),
        "loss": np.concatenate(losses).astype(np.float32),
    }


def alternatives_rows(
    step: int, sequences: range | list[int], tokens: int = 12, k: int = 5, seed: int = 0
) -> dict[str, np.ndarray]:
    """Rows of alternatives/ beside `rows`: k of 50 tokens, by probability, at every position."""
    keys = _keys(step, sequences, tokens)
    rng = np.random.default_rng([seed, step])
    n = len(keys["step"])
    for model in ("student", "teacher"):
        prob_NV = rng.dirichlet(np.full(50, 0.1), n)
        likeliest_NK = np.argsort(-prob_NV, axis=1)[:, :k]
        keys[f"{model}_ids"] = likeliest_NK.astype(np.int32)
        keys[f"{model}_probs"] = np.take_along_axis(prob_NV, likeliest_NK, 1).astype(np.float32)
    return keys


def context_rows(
    step: int, sequences: range | list[int], tokens: int = 12, seed: int = 0
) -> dict[str, np.ndarray]:
    """Rows of contexts/ beside `rows`: random signs, the same for a text at any step."""
    keys = _keys(step, sequences, tokens)
    signs = [np.random.default_rng([seed, s]).integers(0, 256, (tokens, 32)) for s in sequences]
    return {**keys, "context": np.concatenate(signs).astype(np.uint8)}


def _keys(step: int, sequences: range | list[int], tokens: int) -> dict[str, np.ndarray]:
    batch = rows(step, sequences, tokens)
    return {name: batch[name] for name in ("step", "sequence_id", "position")}


def sequence_rows(sequences: range | list[int], step: int = 0) -> dict[str, Any]:
    """Rows for sequences/: three rollouts to a prompt."""
    return {
        "sequence_id": list(sequences),
        "step": step,
        "num_tokens": 12,
        "prompt_id": [f"prompt-{sequence // 3}" for sequence in sequences],
    }


def write_log(
    path: Path, steps: tuple[int, ...] = (0, 10), sequences: int = 40, *, vocab: bool = True
) -> Path:
    """A log as the writer makes it: `fixed` at some steps, one shard a step, `sequences`."""
    texts = [(i, f"t{i}", b"t%d" % i) for i in range(50)] if vocab else None
    with LogWriter(path, run=RUN, vocab=texts) as writer:
        writer.write(sequence_rows(range(sequences)), table="sequences")
        for step in steps:
            writer.write(rows(step, range(sequences)), table="fixed")
            writer.finish_step(step, "fixed")
            writer.flush()
    return path


def write_by_hand(path: Path, batch: dict[str, Any], name: str = "a", table: str = "fixed") -> Path:
    """One shard by pandas, as someone without our writer would make it."""
    target = path / table / f"{name}.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(batch).to_parquet(target, index=False)
    return path


def shards(path: Path, table: str = "fixed") -> list[Path]:
    """A log's shards of a table, in order."""
    return sorted((path / table).rglob("*.parquet"))


def bare_copy(log: Path, target: Path, tables: Sequence[str]) -> None:
    """Some tables of a log as somebody's own Parquet files: nothing says whose shards they are."""
    for table in tables:
        (target / table).mkdir(parents=True)
        for shard in (log / table).rglob("*.parquet"):
            bare = pq.read_table(shard).replace_schema_metadata()
            name = str(shard.relative_to(log / table)).replace("/", "-")
            pq.write_table(bare, target / table / name)
    for name in ("run.json", "vocab.parquet"):
        shutil.copy(log / name, target / name)
