"""Logs with every column that a lens looks at: at random, and with one lens that is the rocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rocktok.log import LogWriter
from tests import worlds
from tests.logs import RUN

COLUMNS = ("student_logprob", "teacher_logprob", "student_entropy", "teacher_entropy", "grad_norm",
           "jsd", "overlap", "teachability", "student_end", "teacher_end")  # fmt: skip

Frame = pd.DataFrame


def frames(
    seed: int = 0, sequences: int = 60, prompts: int = 30, steps: tuple[int, ...] = (0, 10)
) -> tuple[dict[int, Frame], Frame]:
    """Step → rows, and the sequences, whose lengths differ and which lack some positions.

    Losses and entropies depend on the prompt, of both steps on the same number, and on chance.
    """
    rng = np.random.default_rng(seed)
    texts = []
    for sequence in range(sequences):
        positions = np.flatnonzero(rng.random(int(rng.integers(2, 60))) < 0.9)
        positions = positions if len(positions) else np.zeros(1, dtype=int)
        texts.append(
            pd.DataFrame(
                {
                    "sequence_id": sequence,
                    "position": positions,
                    "token_id": rng.integers(0, 50, len(positions)),
                }
            )
        )
    text = pd.concat(texts, ignore_index=True)
    lasting = rng.exponential(1.0, len(text))
    rows = {step: _scored(rng, text, step, lasting) for step in steps}
    right: list[Any] = [[True, False, None][int(k)] for k in rng.integers(0, 3, sequences)]
    listed = pd.DataFrame(
        {
            "sequence_id": np.arange(sequences),
            "step": 0,
            "num_tokens": text.groupby("sequence_id")["position"].max() + 1,
            "prompt_id": [f"p{sequence % prompts}" for sequence in range(sequences)],
            "correct": pd.array(right, dtype="boolean"),
        }
    )
    return rows, listed


def _scored(rng: np.random.Generator, text: Frame, step: int, lasting: np.ndarray) -> Frame:
    n = len(text)
    numbers = {
        "loss": lasting * rng.exponential(0.5, n),
        "student_logprob": -rng.exponential(1.0, n),
        "teacher_logprob": -rng.exponential(1.5, n),
        "student_entropy": rng.exponential(1.0, n) + 0.3 * lasting,
        "teacher_entropy": rng.exponential(1.0, n),
        "grad_norm": rng.exponential(1.0, n),
        "jsd": rng.uniform(0, np.log(2), n),
        "overlap": rng.integers(0, 17, n) / 16,
        "teachability": rng.uniform(0, 1, n),
        "student_end": rng.uniform(0, 0.4, n),
        "teacher_end": rng.uniform(0, 0.4, n),
    }
    columns = {name: np.asarray(values, dtype=np.float32) for name, values in numbers.items()}
    return text.assign(step=step, **columns)


def write(
    path: Path,
    rows: dict[int, Frame],
    listed: Frame | None,
    columns: tuple[str, ...] = COLUMNS,
    exactness: str = "exact",
    table: str = "fixed",
    flush: int = 1000,
) -> Path:
    """The log; a shard for every `flush` sequences."""
    run = {**RUN, "loss": {**RUN["loss"], "exactness": exactness}}  # type: ignore[dict-item]
    with LogWriter(path, run=run, columns=list(columns)) as writer:
        if listed is not None:
            batch = {name: listed[name].tolist() for name in listed}
            if "correct" in batch:
                known = listed["correct"]
                batch["correct"] = [None if pd.isna(one) else bool(one) for one in known]
            writer.write(batch, table="sequences")
        for step, frame in rows.items():
            wanted = ["step", "sequence_id", "position", "token_id", "loss", *columns]
            for _, part in frame[wanted].groupby(frame["sequence_id"] // flush):
                writer.write({name: part[name].to_numpy() for name in wanted}, table=table)
                writer.flush()
            writer.finish_step(step, table)
            writer.flush()
    return path


def planted(path: Path, seed: int = 0) -> tuple[Path, list[int]]:
    """A log with planted rocks whose hard occurrences alone have a high student's entropy.

    All else is drawn at random. Returns the planted types, too.
    """
    log = worlds.planted_rocks(seed, 60, 17)
    rocks = sorted(v for kind in ("common", "rare") for v in log.kinds.get(kind, []))
    frame, rng = log.rows, np.random.default_rng(seed)
    by_step = [frame[frame["step"] == step] for step in (50, 1000)]
    hard = np.logical_and(*(part["loss"].to_numpy() > 0.6 for part in by_step))
    hard &= np.isin(by_step[0]["token_id"], rocks)
    n = len(frame)
    log.rows["student_entropy"] = (rng.uniform(0, 1, n) + np.tile(2.0 * hard, 2)).astype("f4")
    log.rows["teacher_entropy"] = rng.uniform(0, 1, n).astype("f4")
    log.rows["student_logprob"] = -rng.exponential(1.0, n).astype("f4")
    log.rows["teacher_logprob"] = -rng.exponential(1.0, n).astype("f4")
    log.write(path)
    (path / "run.json").write_text(json.dumps({**RUN, "vocab_size": 5000}))
    return path, rocks
