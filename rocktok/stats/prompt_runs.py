"""How many distinct prompts hold each token type, where the rows of a prompt are neighbours.

Array suffixes: N rows; R runs of rows of one prompt; V token ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from rocktok._types import Array
from rocktok.runs import run_starts
from rocktok.stats import kernels
from rocktok.stats.accumulator import Batch
from rocktok.stats.arrays import distinct


class PromptOf:
    """The prompt (uint64) of each of some sequences, by a function; shared by all tasks."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        self.function = function

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Never changed, and large where there are many sequences.
        return self


class PromptRuns:
    """Of every token type the number of runs that hold it: of neighbours of the same prompt.

    Hooks write the sequences of a prompt side by side: runs are prompts then, and all types are
    counted in the pass that finds out which of them matter. `is_exact` says whether it is so. 8
    bytes for each token id, and 8 for each run.

    Args:
        prompt_of: the prompts of sequences; None: rows have theirs, in 8 bytes each.
        compiled: use the compiled loop. The same counts as without, faster in large logs.
    """

    def __init__(self, prompt_of: PromptOf | None = None, *, compiled: bool = False) -> None:
        self.needs: tuple[str, ...] = ("token_id", "sequence_id")
        if prompt_of is None:
            self.needs += ("prompt",)
        self.prompt_of: PromptOf | None = prompt_of
        self.compiled = compiled
        self._prompts: list[Array] = []
        self._runs = 0
        self._mark_V2: Array = _unmarked(0)
        #: Types of the first run, which may go on from that of another, once it has ended.
        self._first: Array | None = None
        #: Of a partial result: counts by token id, and the types of the last run.
        self._closed: tuple[Array, Array] | None = None

    def update(self, batch: Batch) -> None:
        """Add a batch of whole sequences."""
        token_N, sequence_N = batch["token_id"], batch["sequence_id"]
        if len(token_N) == 0:
            return
        self._reach(int(token_N.max()) + 1)
        start_S = run_starts(sequence_N)
        if self.prompt_of is None:
            prompt_S = batch["prompt"][start_S]
        else:
            prompt_S = self.prompt_of.function(sequence_N[start_S])
        new_S = run_starts(prompt_S)
        start_R, prompt_R = start_S[new_S], prompt_S[new_S]
        goes_on = bool(self._runs and self._prompts[-1][-1] == prompt_R[0])
        first = self._runs - goes_on
        edge_R = np.append(start_R, len(token_N))
        if self._first is None and first + len(prompt_R) > 1:
            # The first run ends in this batch, or has ended with the one before.
            if first == 0:
                self._mark(token_N[: edge_R[1]], edge_R[:2], 0)
                token_N, edge_R, first = token_N[edge_R[1] :], edge_R[1:] - edge_R[1], 1
            self._first = np.flatnonzero(self._mark_V2[:, 1] == 0)
        self._mark(token_N, edge_R, first)
        self._prompts.append(prompt_R[goes_on:])
        self._runs += len(prompt_R) - goes_on
        if not len(self._prompts[-1]):
            self._prompts.pop()

    def _mark(self, token_N: Array, edge_R: Array, first: int) -> None:
        mark = kernels.mark_runs if self.compiled else kernels.mark_runs_numpy
        mark(token_N, edge_R, first, self._mark_V2)

    def _reach(self, length: int) -> None:
        if length > len(self._mark_V2):
            longer = _unmarked(1 << (length - 1).bit_length())
            longer[: len(self._mark_V2)] = self._mark_V2
            self._mark_V2 = longer

    def close(self) -> None:
        """Keep the counts, and what the runs of other parts may go on from."""
        self.prompt_of = None
        if self._closed is None:
            count_V, last_V = self._mark_V2.T
            self._closed = count_V.astype(np.int64), np.flatnonzero(last_V == self._runs - 1)
            if self._first is None:
                self._first = self._closed[1]
            self._mark_V2 = _unmarked(0)

    def merge(self, other: Self) -> None:
        """Add what another one has seen, as if its batches followed."""
        self.close()
        other.close()
        if not other._runs:
            return
        assert self._closed is not None
        assert other._closed is not None
        assert other._first is not None
        count_V, last = self._closed
        other_V, other_last = other._closed
        both_V = np.zeros(max(len(count_V), len(other_V)), dtype=np.int64)
        both_V[: len(count_V)] += count_V
        both_V[: len(other_V)] += other_V
        goes_on = bool(self._runs and self._prompts[-1][-1] == other._prompts[0][0])
        if goes_on:
            both_V[np.intersect1d(last, other._first)] -= 1
            joined = np.union1d(last, other._first)
            self._first = joined if self._runs == 1 else self._first
            other_last = joined if other._runs == 1 else other_last
        elif not self._runs:
            self._first = other._first
        self._closed = both_V, other_last
        prompt_R = np.concatenate(other._prompts)[goes_on:]
        self._prompts += [prompt_R] if len(prompt_R) else []
        self._runs += other._runs - goes_on

    @property
    def is_exact(self) -> bool:
        """Whether no prompt's rows are in two places, so that runs are prompts."""
        return not self._runs or len(distinct(np.concatenate(self._prompts))) == self._runs

    def result(self, types: Array) -> Array:
        """Runs (int64) that hold each of some types, given by token id."""
        self.close()
        assert self._closed is not None
        count_V = self._closed[0]
        counts = np.zeros(len(types), dtype=np.int64)
        seen = types < len(count_V)
        counts[seen] = count_V[types[seen]]
        return counts


def _unmarked(length: int) -> Array:
    return np.tile(np.array([0, -1], dtype=np.int32), (length, 1))
