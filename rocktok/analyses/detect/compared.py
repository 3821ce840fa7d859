"""Windows that are compared, and which of them are no partners of one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rocktok._types import Array

PARTNERS = ("other-prompt", "other-sequence", "all")


@dataclass(frozen=True)
class Windows:
    """Windows of M rows: token ids (M, 2w), and labels: rows under the same one are no partners.

    For similarity "hidden" sketches, (M, 4) uint64, stand in place of the ids. A label (uint64) is
    of the row's prompt, of its sequence, or the row's own.
    """

    window_MK: Array
    label_M: Array

    def __len__(self) -> int:
        return len(self.window_MK)

    def rows(self, rows: slice) -> Windows:
        """Some of them."""
        return Windows(self.window_MK[rows], self.label_M[rows])

    def joined(self, others: Windows) -> Windows:
        """These, then the others."""
        return Windows(
            np.concatenate((self.window_MK, others.window_MK)),
            np.concatenate((self.label_M, others.label_M)),
        )


def labels(rows: dict[str, Array], partners: str) -> Array:
    """Labels under a partner rule, of rows that have `prompt`, `sequence` and `hash`.

    A row's own label is the hash of its sequence and position: once in 10^19 two share one.
    """
    if partners == "all":
        return rows["hash"]
    if partners == "other-sequence":
        return rows["sequence"].astype(np.int64, copy=False).view(np.uint64)
    return rows["prompt"]


def partner_counts(ours: Windows, theirs: Windows) -> Array:
    """How many partners each of our rows has among theirs: those under another label."""
    unique_U, count_U = np.unique(theirs.label_M, return_counts=True)
    if len(unique_U) == 0:
        return np.zeros(len(ours), dtype=np.int64)
    at_M = np.minimum(np.searchsorted(unique_U, ours.label_M), len(unique_U) - 1)
    own_M = np.where(unique_U[at_M] == ours.label_M, count_U[at_M], 0)
    partners: Array = len(theirs) - own_M
    return partners
