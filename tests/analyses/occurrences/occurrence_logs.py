"""Small logs of few types, so that contexts recur, with gaps, and with sketches where wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from rocktok.log import LogWriter
from tests.logs import RUN


def frame(
    seed: int = 0, sequences: int = 40, tokens: int = 14, types: int = 12, gaps: float = 0.1
) -> pd.DataFrame:
    """Text with losses at two steps, `pre` and `post`, and `prompt`: two sequences to each."""
    rng = np.random.default_rng(seed)
    n = sequences * tokens
    rows = pd.DataFrame(
        {
            "sequence_id": np.repeat(np.arange(sequences) * 7 - 5, tokens),
            "position": np.tile(np.arange(tokens), sequences),
            "token_id": rng.integers(0, types, n),
            "pre": rng.exponential(0.5, n).astype(np.float32),
            "post": rng.exponential(0.5, n).astype(np.float32),
            "prompt": np.repeat(np.arange(sequences) // 2, tokens),
        }
    )
    return rows[rng.random(n) >= gaps].reset_index(drop=True)


def write(path: Path, rows: pd.DataFrame, *, each: int = 10, sketched: float = 0.0) -> Path:
    """A log of it at steps 0 and 10; a shard for every `each` sequences.

    `sketched`: share of the positions with a row in contexts/.
    """
    rng = np.random.default_rng(1)
    ids = rows["sequence_id"].unique()
    with LogWriter(path, run=RUN, vocab=[(i, f"t{i}", b"t%d" % i) for i in range(50)]) as writer:
        prompts = rows.groupby("sequence_id")["prompt"].first()
        writer.write(
            {
                "sequence_id": list(map(int, ids)),
                "step": 0,
                "num_tokens": 14,
                "prompt_id": [f"p{prompts[i]}" for i in ids],
            },
            table="sequences",
        )
        for step, name in ((0, "pre"), (10, "post")):
            for start in range(0, len(ids), each):
                part = rows[rows["sequence_id"].isin(ids[start : start + each])]
                keys = {
                    "step": np.full(len(part), step, np.int32),
                    "sequence_id": part["sequence_id"].to_numpy(),
                    "position": part["position"].to_numpy().astype(np.int32),
                }
                token_N = part["token_id"].to_numpy().astype(np.int32)
                loss_N = part[name].to_numpy()
                writer.write({**keys, "token_id": token_N, "loss": loss_N}, table="fixed")
                if sketched and step == 0:
                    keep = rng.random(len(part)) < sketched
                    signs = rng.integers(0, 256, (len(part), 32)).astype(np.uint8)
                    # Half of the positions look alike, so that some are similar.
                    signs[rng.random(len(part)) < 0.5, :30] = 7
                    context = {k: v[keep] for k, v in {**keys, "context": signs}.items()}
                    writer.write(context, table="contexts")
                writer.flush()
            writer.finish_step(step, "fixed")
            if sketched and step == 0:
                writer.finish_step(step, "contexts")
            writer.flush()
    return path
