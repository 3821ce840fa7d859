"""Exact quantiles of the quantities of lenses, at one step or at two, in two passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from rocktok._types import Array
from rocktok.analyses.lenses.quantities import POST, SHUFFLED, Correct, Cuts, Rows, rows_at
from rocktok.stats.accumulator import Batch
from rocktok.stats.quantiles import Histogram, quantile_rank, value_of

#: Of a histogram: ending of the step's columns, quantity, upper half of its values or None.
Key = tuple[str, str, int | None]


#: Ending of a step's columns → its thresholds.
CutsByEnding = dict[str, dict[tuple[str, float], float]]


class Histograms:
    """Halves of the exact quantiles of some quantities.

    Args:
        keys: what is counted.
        columns: that the quantities need, as they are at post.
        cuts: by ending, thresholds that scale some of the quantities.
        correct: which sequences were right; None where none needs that.
        seed: of the shuffle.
        compiled: use the compiled loops.

    Half a megabyte each while rows are read; a finished task carries only the bins in use.
    """

    def __init__(
        self,
        keys: Iterable[Key],
        columns: Iterable[str],
        *,
        cuts: Mapping[str, Cuts] | None = None,
        correct: Correct | None = None,
        seed: int = 0,
        compiled: bool = False,
    ) -> None:
        self._by_key = {
            key: Histogram(key[1], key[2], compiled=compiled) for key in sorted(set(keys), key=str)
        }
        endings = sorted({ending for ending, _, _ in self._by_key})
        self.needs = needs(columns, endings)
        self._cuts, self._correct, self._seed = dict(cuts or {}), correct, seed
        self._compiled = compiled
        self._closed: dict[Key, dict[str, Any]] | None = None

    def update(self, batch: Batch) -> None:
        """Count a batch of whole sequences."""
        if not len(batch["sequence_id"]):
            return
        rows: dict[str, Rows] = {}
        for (ending, name, _), histogram in self._by_key.items():
            if ending not in rows:
                rows[ending] = rows_at(
                    batch, ending, self._cuts, correct=self._correct, seed=self._seed,
                    compiled=self._compiled,
                )  # fmt: skip
            histogram.update({name: rows[ending].of(name)})

    def close(self) -> None:
        """Keep the bins in use alone."""
        self._closed = {key: one.__getstate__() for key, one in self._by_key.items()}
        self._by_key = {}

    def merge(self, other: Self) -> None:
        """Add another's counts."""
        if other._closed is None:
            for key, theirs in other._by_key.items():
                self._by_key[key].merge(theirs)
            return
        for key, state in other._closed.items():
            self._by_key[key].count_B[state["used"]] += state["count_B"]

    def count(self, key: Key) -> Array:
        """Counts of a key's bins."""
        return self._by_key[key].count_B

    def locate(self, key: Key, rank: int) -> tuple[int, int]:
        """Bin of the rank-th smallest value, and its rank within the bin."""
        return self._by_key[key].locate(rank)


def needs(columns: Iterable[str], endings: Iterable[str]) -> tuple[str, ...]:
    """Names of columns in a batch, as they are at the steps with these endings; and of its keys."""
    keys = ("sequence_id", "position")
    endings = sorted({POST if ending == SHUFFLED else ending for ending in endings})
    return (*keys, *(f"{column}{ending}" for column in columns for ending in endings))


class Quantiles:
    """The thresholds of one or two steps: `upper` is for a first pass, `lower` for a second."""

    def __init__(self, wanted: Iterable[tuple[str, str, float]]) -> None:
        #: (ending, quantity, quantile).
        self.wanted = list(wanted)

    def upper(self) -> list[Key]:
        """What the first pass counts."""
        return [(ending, name, None) for ending, name, _ in self.wanted]

    def lower(self, upper: Histograms) -> list[Key]:
        """What the second pass counts, given the first."""
        return [
            (ending, name, self._located(upper, ending, name, q)[0])
            for ending, name, q in self.wanted
            if upper.count((ending, name, None)).any()
        ]

    def values(self, upper: Histograms, lower: Histograms) -> CutsByEnding:
        """The thresholds of each step; NaN of what no row has."""
        found: CutsByEnding = {}
        for ending, name, q in self.wanted:
            value = float("nan")
            if upper.count((ending, name, None)).any():
                prefix, rank = self._located(upper, ending, name, q)
                value = float(value_of(prefix, lower.locate((ending, name, prefix), rank)[0]))
            found.setdefault(ending, {})[name, q] = value
        return found

    def _located(self, upper: Histograms, ending: str, name: str, q: float) -> tuple[int, int]:
        key = ending, name, None
        return upper.locate(key, quantile_rank(q, int(upper.count(key).sum())))
