"""The units that vote on a type: its prompts, or where there are very many, groups of them.

Array suffixes: N rows; M some rows; P prompts; V token ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.strata import STRATA, sequence_starts
from rocktok.hashing import hash_rows
from rocktok.stats.accumulator import Batch
from rocktok.stats.sums import DistinctValues

#: Prompts that are told apart, at most, and groups.
MOST = 4096
#: Sums by type, prompt and stratum for which one pass is all, at most, of 24 bytes each. No log in
#: which all windows are held at once has more rows.
MOST_PLACES = 1 << 22
#: Sums by type and cluster that are held at once, at most, of 32 bytes each.
MOST_SUMS = 1 << 23
#: Fewest groups, however many types there are.
FEWEST = 64


class PromptList(DistinctValues):
    """Distinct prompts: 8 bytes each."""

    def __init__(self) -> None:
        super().__init__("prompt")

    def update(self, batch: Batch) -> None:
        """Add the prompts of the batch's sequences."""
        starts = sequence_starts(batch["sequence_id"])
        super().update({"prompt": batch["prompt"][starts]})


@dataclass(frozen=True)
class Clusters:
    """Prompts in ascending order of their hash, or `groups` of them by another hash.

    Attributes:
        prompt_P: distinct prompts (uint64), ascending.
        groups: None: each prompt is a cluster.
        one_pass: each prompt is a cluster, and so little text that sums are by stratum, too.
        seed: of the groups.
    """

    prompt_P: Array
    groups: int | None
    one_pass: bool
    seed: int

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Never changed, and large where there are many prompts: shared by all tasks.
        return self

    @property
    def count(self) -> int:
        """Number of clusters."""
        return len(self.prompt_P) if self.groups is None else self.groups

    def places(self, prompt_M: Array) -> Array:
        """Place of each among the distinct prompts."""
        return np.searchsorted(self.prompt_P, prompt_M).astype(np.int64)

    def of(self, prompt_M: Array) -> Array:
        """Cluster (int64) of each prompt."""
        if self.groups is None:
            return self.places(prompt_M)
        # A third key: groups are independent of halves and of the bootstrap's groups.
        hash_M = hash_rows(self.seed, np.array([-3]), prompt_M)
        return (hash_M % np.uint64(self.groups)).astype(np.int64)

    def of_rows(self, batch: Batch) -> Array:
        """Cluster of each row of a batch of whole sequences."""
        return by_sequence(batch, self.of)


def by_sequence(batch: Batch, function: Callable[[Array], Array]) -> Array:
    """What a function of the prompt gives for each row, called once for each sequence."""
    starts = sequence_starts(batch["sequence_id"])
    sizes = np.diff(np.append(starts, len(batch["sequence_id"])))
    rows_N: Array = np.repeat(function(batch["prompt"][starts]), sizes)
    return rows_N


def choose_clusters(
    prompt_P: Array,
    count_V: Array,
    seed: int,
    *,
    most: int = MOST,
    most_places: int = MOST_PLACES,
    most_sums: int = MOST_SUMS,
) -> Clusters:
    """Each prompt by itself where memory allows; else as many groups as it allows, a power of 2.

    Args:
        prompt_P: distinct prompts, ascending.
        count_V: rows of each type: no type has more sums than rows.
        seed: of the groups.
        most: prompts told apart, and groups, at most.
        most_places: sums by type, prompt and stratum, at most.
        most_sums: sums by type and cluster, at most.
    """
    prompts = len(prompt_P)
    if prompts <= most:
        if np.minimum(count_V, STRATA * prompts).sum() <= most_places:
            return Clusters(prompt_P, None, True, seed)
        if np.minimum(count_V, prompts).sum() <= most_sums:
            return Clusters(prompt_P, None, False, seed)
    groups = 1 << (most.bit_length() - 1)
    while groups > FEWEST and np.minimum(count_V, groups).sum() > most_sums:
        groups //= 2
    return Clusters(prompt_P, groups, False, seed)
