"""Persistent occurrences: hard at both steps, on the same text."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rocktok.analyse.accumulate import Batch, add_counts
from rocktok.analyse.detect import Thresholds
from rocktok.analyse.windows import Occurrences

Array = npt.NDArray[Any]


class Persistent:
    """Collects persistent occurrences, and counts rows that are hard at each step by type."""

    def __init__(self, thresholds: Thresholds, reach: int) -> None:
        self.thresholds = thresholds
        self.occurrences = Occurrences(reach)
        self.hard: dict[str, Array] = {
            name: np.zeros(0, dtype=np.int64) for name in ("both", "pre", "post")
        }

    def update(self, batch: Batch) -> None:
        """Add a joined batch: loss_pre and loss_post."""
        pre_N, post_N = batch["loss_pre"], batch["loss_post"]
        both_N = self.thresholds.persistent(pre_N, post_N)
        hard_post_N = both_N
        if self.thresholds.post is not None:
            hard_post_N = post_N.astype(np.float64) >= self.thresholds.post
        hard_pre_N = pre_N.astype(np.float64) >= self.thresholds.pre
        for name, hard_N in (("both", both_N), ("pre", hard_pre_N), ("post", hard_post_N)):
            self.hard[name] = add_counts(self.hard[name], np.bincount(batch["token_id"][hard_N]))
        self.occurrences.add(batch, np.flatnonzero(both_N))

    def merge(self, other: Self) -> None:
        """Add what another has collected."""
        for name, counts in other.hard.items():
            self.hard[name] = add_counts(self.hard[name], counts)
        self.occurrences.merge(other.occurrences)


def distinct_prompts(rows: dict[str, Array], length: int) -> Array:
    """Per token id, the distinct prompts among rows that are sorted by token."""
    if not rows:
        return np.zeros(length, dtype=np.int64)
    order = np.lexsort((rows["prompt"], rows["token"]))
    token, prompt = rows["token"][order], rows["prompt"][order]
    new = np.concatenate(([True], (token[1:] != token[:-1]) | (prompt[1:] != prompt[:-1])))
    return np.bincount(token[new[: len(token)]], minlength=length)
