"""Large synthetic logs for benchmarks: phrases that recur, types of Zipf frequency, hard types.

`python tests/benchmarks/large_logs.py LOG --rows 100000000 --shards 10` writes one step of
rollouts; `--steps 0 100 --table fixed` writes the same text at two steps. The loss of an occurrence
is its type's mean times a factor of the occurrence (which stays) times noise (which does not).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rocktok.log import LogWriter

VOCABULARY = 151_936
TOKENS = 512  # of a sequence
PHRASE = 8  # tokens
PHRASES = 200_000
KINK = 5_000  # rank from which types thin out


def zipf(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Ranks of words in text: probability about 1/rank, and 1/rank² for the rare ones.

    Two regimes as in large corpora: Ferrer i Cancho and Solé 2001.
    """
    rank = np.arange(3, size + 3)
    edges = np.cumsum(1.0 / rank * np.minimum(1.0, KINK / rank))
    return np.searchsorted(edges, rng.random(count) * edges[-1]).astype(np.int32)


class Text:
    """Sequences made of phrases, their occurrences' factors, and the types' mean losses."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 1])
        self.seed = seed
        self.phrase_PK = zipf(VOCABULARY, PHRASES * PHRASE, rng).reshape(PHRASES, PHRASE)
        self.rank = zipf(PHRASES, 1 << 22, rng)
        self.mean_V = rng.lognormal(-2.0, 1.2, VOCABULARY).astype(np.float32)

    def rows(self, first: int, sequences: int, step: int) -> dict[str, np.ndarray | int]:
        """All columns of some sequences at a step; the text depends on the sequences alone."""
        text, noise = (np.random.default_rng([self.seed, first, k]) for k in (2, 3 + step))
        drawn = text.integers(0, len(self.rank), sequences * TOKENS // PHRASE, dtype=np.int32)
        token_N = self.phrase_PK[self.rank[drawn]].ravel()
        loss_N = self.mean_V[token_N] * text.standard_exponential(len(token_N), dtype=np.float32)
        loss_N *= noise.standard_exponential(len(token_N), dtype=np.float32)
        return {
            "step": step,
            "sequence_id": np.repeat(np.arange(first, first + sequences), TOKENS),
            "position": np.tile(np.arange(TOKENS, dtype=np.int32), sequences),
            "token_id": token_N,
            "loss": loss_N,
            "grad_norm": loss_N * np.float32(0.5) + np.float32(0.01),
        }


def make(path: Path, rows: int, shards: int, table: str, steps: list[int]) -> None:
    """Write the log: `rows` at each step, in one shard of each step for each of `shards` ranks."""
    text = Text()
    each = rows // shards // TOKENS
    run = {"vocab_size": VOCABULARY, "loss": {"exactness": "exact"}}
    attempt, run_id = None, None
    for rank in range(shards):
        with LogWriter(
            path,
            columns=["grad_norm"],
            run=run,
            rank=rank,
            world_size=shards,
            attempt=attempt,
            run_id=run_id,
            flush_bytes=1 << 62,
        ) as writer:
            attempt, run_id = writer.attempt, writer.run_id
            ids = np.arange(rank * each, (rank + 1) * each)
            sequences = {"sequence_id": ids, "step": steps[0], "num_tokens": TOKENS}
            prompts = np.char.add("p", (ids // 8).astype(str))
            writer.write({**sequences, "prompt_id": prompts}, table="sequences")
            for step in steps:
                writer.write(text.rows(rank * each, each, step), table=table)
                writer.finish_step(step, table)
                writer.flush()


def main() -> None:
    """Write a log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--table", default="rollout")
    parser.add_argument("--steps", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    make(asked.log, asked.rows, asked.shards, asked.table, asked.steps)


if __name__ == "__main__":
    main()
