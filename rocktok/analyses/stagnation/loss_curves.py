"""Mean losses over the steps of a run, of types, of groups and of all positions, with replicates.

Array suffixes: B replicates; T types of the bootstrap; S steps.
"""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.analyses.stagnation.result import CorpusStep, GroupStep
from rocktok.stats.bootstrap import PromptBootstrap, interval
from rocktok.stats.contrasts import ratio

#: What the bootstrap of a step must sum.
QUANTITIES = ("", "loss")

#: Steps above 0 at which a type must stand for a slope.
MIN_SLOPE = 3


class LossCurves:
    """Fed step by step, ascending; keeps the replicates of the pre and the post step alone.

    `groups`: name → token ids. `pre`: the step from which changes are measured; post is the last.
    `loss_ST`: mean losses, NaN where a type is absent.
    """

    def __init__(self, groups: dict[str, tuple[int, ...]], pre: int) -> None:
        self.groups, self._pre_step = groups, pre
        self.steps: list[int] = []
        self.frequency_ST: list[Array] = []
        self.loss_ST: list[Array] = []
        self.ends_ST: list[tuple[Array, Array]] = []
        self.group_rows: list[GroupStep] = []
        self.corpus_rows: list[CorpusStep] = []
        self._pre: Step | None = None
        self._post: Step | None = None
        self._slopes: tuple[Slope, Slope] | None = None

    def add(self, step: int, bootstrap: PromptBootstrap) -> None:
        """One step's sums, of the same types and weights as the steps before."""
        means = Step(bootstrap)
        self.steps.append(step)
        self.frequency_ST.append(means.count_T.astype(np.int64))
        self.loss_ST.append(means.mean_T)
        self.ends_ST.append(means.ends())
        self.corpus_rows.append(means.corpus_row(step))
        for name, ids in self.groups.items():
            self.group_rows.append(means.group_row(step, name, ids))
        if step == self._pre_step:
            self._pre = means
        self._post = means
        if self._slopes is None:
            self._slopes = Slope(means.mean_T.shape), Slope(means.mean_BT.shape)
        for slope, mean in zip(self._slopes, (means.mean_T, means.mean_BT), strict=True):
            slope.add(step, mean)

    @property
    def slopes(self) -> tuple[Array, Array]:
        """(T,) and (B, T), of the log loss on the log of the step."""
        assert self._slopes is not None
        plain, drawn = self._slopes
        return plain.result(), drawn.result()

    @property
    def ends(self) -> tuple[Step, Step]:
        """Pre and post step."""
        assert self._pre is not None and self._post is not None
        return self._pre, self._post


class Step:
    """Means at one step, plain and of every replicate."""

    def __init__(self, bootstrap: PromptBootstrap) -> None:
        plain_TM, drawn_BTM = bootstrap.sum_TM, bootstrap.sum_BTM
        self.types = bootstrap.types
        self.count_T = plain_TM[:-1, 0]
        self.mean_T = ratio(plain_TM[:-1, 1], plain_TM[:-1, 0])
        self.mean_BT = ratio(drawn_BTM[:, :-1, 1], drawn_BTM[:, :-1, 0])
        self.enough_T = bootstrap.enough_T
        self.positions = int(plain_TM[:, 0].sum())
        self.corpus = float(ratio(plain_TM[:, 1].sum()[None], plain_TM[:, 0].sum()[None])[0])
        self.corpus_B = ratio(drawn_BTM[..., 1].sum(axis=1), drawn_BTM[..., 0].sum(axis=1))

    def places(self, ids: tuple[int, ...] | Array) -> Array:
        """Of token ids among the types."""
        return np.flatnonzero(np.isin(self.types, np.asarray(ids, dtype=np.int64)))

    def ends(self) -> tuple[Array, Array]:
        """95% interval of each type's mean; NaN below `MIN_PROMPTS` prompts."""
        low_T, high_T = np.full((2, len(self.types)), np.nan)
        for t in np.flatnonzero(self.enough_T):
            low, high, _ = interval(self.mean_BT[:, t])
            if low is not None and high is not None:
                low_T[t], high_T[t] = low, high
        return low_T, high_T

    def group(self, at: Array) -> tuple[float, Array]:
        """Mean over types of their mean losses, plain and (B,): each type counts the same."""
        return float(_mean(self.mean_T[None, at])[0]), _mean(self.mean_BT[:, at])

    def group_row(self, step: int, group: str, ids: tuple[int, ...]) -> GroupStep:
        """Mean over the types that are seen at this step, with a 95% interval, as of a type."""
        at = self.places(ids)
        at = at[np.isfinite(self.mean_T[at])]
        mean, low, high = None, None, None
        if len(at):
            mean, mean_B = self.group(at)
            low, high = self._between(mean_B, at)
        return {
            "step": step,
            "group": group,
            "types_seen": len(at),
            "frequency": int(self.count_T[at].sum()),
            "loss": mean,
            "loss_low": low,
            "loss_high": high,
        }

    def corpus_row(self, step: int) -> CorpusStep:
        """Mean of all positions, with a 95% interval, as of a type."""
        low, high = self._between(self.corpus_B, np.arange(len(self.types)))
        return {
            "step": step,
            "positions": self.positions,
            "loss": self.corpus,
            "loss_low": low,
            "loss_high": high,
        }

    def _between(self, mean_B: Array, at: Array) -> tuple[float | None, float | None]:
        """95% interval; none where fewer than `MIN_PROMPTS` prompts hold each of the types."""
        low, high, _ = interval(mean_B) if self.enough_T[at].any() else (None, None, 0)
        return low, high


class Slope:
    """Least squares of log mean loss on log step, over steps above 0, added up step by step."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._sums = np.zeros((5, *shape))

    def add(self, step: int, mean: Array) -> None:
        """Another step; one at which a type has no loss, or none above 0, is left out of its."""
        if step <= 0:
            return
        x = float(np.log(step))
        usable = np.isfinite(mean) & (mean > 0)
        y = np.log(np.where(usable, mean, 1.0))
        one = usable.astype(np.float64)
        for i, term in enumerate((one, x * one, x * x * one, y, x * y)):
            self._sums[i] += term

    def result(self) -> Array:
        """Slopes, NaN with fewer than `MIN_SLOPE` steps."""
        n, x, xx, y, xy = self._sums
        over = np.where(n >= MIN_SLOPE, n * xx - x * x, 0.0)
        slope: Array = np.full(n.shape, np.nan)
        np.divide(n * xy - x * y, over, out=slope, where=over > 1e-12)
        return slope


def _mean(values_BT: Array) -> Array:
    """Mean of the defined values of each row; NaN where none is."""
    finite_BT = np.isfinite(values_BT)
    total_B = np.where(finite_BT, values_BT, 0.0).sum(axis=1)
    return ratio(total_B, finite_BT.sum(axis=1))
