"""Gradient geometry: how long a type's mean gradient is, and whether it points with the others'.

From sums of gradient vectors, exact or sketched, by token type and by half of the prompts. All
measures are made of inner products of those sums. A sketch estimates each inner product once a
table; leaving out one table after another (the jackknife) says how far off a measure is.

Shape suffixes: H halves of the prompts (two), T token types, W width of a vector (the vocabulary,
or the dimensions of a sketch), R tables of a sketch (one where vectors are exact), K kinds of
total (balanced, global).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from rocktok._types import Array
from rocktok.analyses.attribute.result import GeometryContrast
from rocktok.errors import UsageError
from rocktok.hashing import SKETCH_TABLES, sketch_widths
from rocktok.stats.rank_tests import mann_whitney_p, wilcoxon_p

#: What is measured of each type, in the order of the table; see `Geometry`.
MEASURES = (
    "mean_norm",
    "cos_balanced",
    "cos_global",
    "contribution",
    "squared_mean",
    "coherence",
    "split_cos_balanced",
    "split_cos_global",
)

#: Types that a group must have to be compared.
MIN_TYPES = 5

#: 97.5% point of Student's t with one degree of freedom less than there are tables.
T_QUANTILE = 2.364624
#: A difference of squares this small beside its terms is what rounding left of 0.
_ROUNDING = 1e-12
_BALANCED, _GLOBAL = 0, 1


@dataclass(frozen=True)
class Geometry:
    """Measures of each type, float64 of shape (T,); NaN is null.

    With ḡ = Σg/n the mean gradient of the type's n occurrences, G_global = Σ g over all
    occurrences, and G_balanced = Σ_v ḡ_v:

    - `mean_norm`: ‖ḡ‖; of pure noise it falls as 1/√n, so compare types of like frequency
    - `cos_balanced`, `cos_global`: cos(ḡ, G); G contains the type itself
    - `contribution`: n·‖ḡ‖·cos(ḡ, G_balanced)
    - `squared_mean`: (‖Σg‖² - Σ‖g‖²)/(n(n - 1)), unbiased for ‖E g‖² where occurrences are
      independent; may be negative; null where n < 2
    - `coherence`: (‖Σg‖² - Σ‖g‖²)/((Σ‖g‖)² - Σ‖g‖²), the cosine of two occurrences, weighted by
      their norms; null where n < 2
    - `split_cos_balanced`, `split_cos_global`: cosine of the type's sum over one half of the
      prompts with G, less the type, over the other half; mean of both ways; null where a half
      lacks the type, or has nothing else

    Source: the first four are the paper's (arXiv 2605.09253), the others ours.

    `replicates`: for sketches, each measure with each table left out, (R, T); None where exact.
    """

    token_T: Array
    frequency_T: Array
    half_frequency_HT: Array
    mean_norm: Array
    cos_balanced: Array
    cos_global: Array
    contribution: Array
    squared_mean: Array
    coherence: Array
    split_cos_balanced: Array
    split_cos_global: Array
    sketch_dims: int = 0
    replicates: dict[str, Array] | None = field(default=None, repr=False)

    @property
    def exact(self) -> bool:
        """Whether the vectors were exact, not sketched."""
        return self.replicates is None

    def standard_error(self, measure: str) -> Array:
        """(T,) by the jackknife over the tables of the sketch; 0 where vectors were exact."""
        values_T: Array = getattr(self, measure)
        if self.replicates is None:
            return np.where(np.isnan(values_T), np.nan, 0.0)
        return _jackknife(self.replicates[measure])

    def bound(self, measure: str) -> Array:
        """(T,) 95% of sketches are no further from the exact value than this."""
        return T_QUANTILE * self.standard_error(measure)

    def difference(self, measure: str, first: Sequence[int], second: Sequence[int]) -> Difference:
        """How much larger a measure is, on average, over some types than over others.

        Types whose measure is null are left out. What the sketch cannot tell apart is refused.

        Raises `UsageError` for a measure or a type that there is none of.
        """
        if measure not in MEASURES:
            raise UsageError(f"no measure {measure!r}; choose from {', '.join(MEASURES)}")
        values_T: Array = getattr(self, measure)
        places = [self._known(ids, values_T) for ids in (first, second)]
        empty = [word for word, at in zip(("first", "second"), places, strict=True) if not len(at)]
        if empty:
            return Difference(
                None, None, f"{measure} is null for all types of the {empty[0]} group"
            )
        ours, theirs = (values_T[at].mean() for at in places)
        if self.replicates is None:
            return Difference(float(ours - theirs), 0.0, None)
        table_RT = self.replicates[measure]
        apart_R = table_RT[:, places[0]].mean(axis=1) - table_RT[:, places[1]].mean(axis=1)
        bound = float(T_QUANTILE * _jackknife(apart_R))
        if abs(ours - theirs) > bound:
            return Difference(float(ours - theirs), bound, None)
        return Difference(
            None,
            bound,
            f"not distinguishable: {measure} differs by {abs(ours - theirs):.2g}, the error "
            f"bound of the sketch of {self.sketch_dims:,} dimensions is {bound:.2g}; record "
            "exact vectors of these types (gradient_types), or a wider sketch",
        )

    def _known(self, token_ids: Sequence[int], values_T: Array) -> Array:
        """Places of the types, without those whose value is null."""
        wanted = np.asarray(token_ids, dtype=np.int64)
        missing = wanted[~np.isin(wanted, self.token_T)]
        if len(missing):
            raise UsageError(f"type {missing[0]} has no gradient sums at this step")
        at = np.searchsorted(self.token_T, wanted)
        defined: Array = at[~np.isnan(values_T[at])]
        return defined

    def rows(self) -> list[dict[str, int | float | None]]:
        """One mapping a type: `token_id`, `frequency`, measures, and for sketches `…_bound`."""
        columns: dict[str, Array] = {name: getattr(self, name) for name in MEASURES}
        if self.replicates is not None:
            columns |= {f"{name}_bound": self.bound(name) for name in MEASURES}
        return [
            {
                "token_id": int(token),
                "frequency": int(self.frequency_T[at]),
                **{n: None if np.isnan(v[at]) else float(v[at]) for n, v in columns.items()},
            }
            for at, token in enumerate(self.token_T)
        ]


@dataclass(frozen=True)
class Difference:
    """`value` is None where there is none to tell, and `reason` says why.

    `bound`: how far off 95% of sketches are; 0 where vectors were exact.
    """

    value: float | None
    bound: float | None
    reason: str | None


def compare_groups(
    measured: Geometry, members: dict[str, tuple[int, ...]], pairs: tuple[tuple[int, int], ...]
) -> list[GeometryContrast]:
    """The rocks against each other group, and against their controls pair by pair.

    Means over the types whose sums were recorded; `p_types_naive` is Mann-Whitney's across types
    (for pairs Wilcoxon's), which takes types for independent draws. There is no interval over
    prompts: the sums of two halves do not hold what it takes.
    """
    kept = {
        name: [v for v in ids if v in set(measured.token_T.tolist())]
        for name, ids in members.items()
    }
    rows: list[GeometryContrast] = []
    for measure in MEASURES:
        for other in (name for name in members if name != "rocks"):
            row: GeometryContrast = {"measure": measure, "first": "rocks", "second": other}
            small = [
                f"{name} has {len(kept[name])} types with sums"
                for name in ("rocks", other)
                if len(kept[name]) < MIN_TYPES
            ]
            if small:
                row["skipped"] = f"{' and '.join(small)}; at least {MIN_TYPES} are needed"
                rows.append(row)
                continue
            apart = measured.difference(measure, kept["rocks"], kept[other])
            row["difference"], row["bound"] = apart.value, apart.bound
            row["reason"] = apart.reason
            if other == "control":
                row["p_types_naive"] = _paired_p(measured, measure, pairs)
            else:
                row["p_types_naive"] = _unpaired_p(measured, measure, kept["rocks"], kept[other])
            rows.append(row)
    return rows


def _unpaired_p(measured: Geometry, measure: str, *groups: Sequence[int]) -> float | None:
    values_T = getattr(measured, measure)
    first, second = (values_T[measured._known(ids, values_T)] for ids in groups)
    if min(len(first), len(second)) < MIN_TYPES:
        return None
    return mann_whitney_p(first, second)


def _paired_p(measured: Geometry, measure: str, pairs: tuple[tuple[int, int], ...]) -> float | None:
    place = {int(v): at for at, v in enumerate(measured.token_T)}
    values_T = getattr(measured, measure)
    apart = np.array(
        [values_T[place[a]] - values_T[place[b]] for a, b in pairs if a in place and b in place]
    )
    apart = apart[np.isfinite(apart)]
    if len(apart) < MIN_TYPES or not apart.any():
        return None
    return wilcoxon_p(apart)


def geometry(
    *,
    token_T: Array,
    count_HT: Array,
    norm_HT: Array,
    square_HT: Array,
    vector_HTW: Array,
    count_H: Array,
    global_HW: Array,
    balanced_HW: Array,
    sketch_dims: int = 0,
) -> Geometry:
    """Measures of every type from sums of gradients; see `Geometry`.

    Args:
        token_T: ids of the types, ascending.
        count_HT: occurrences of each type in each half.
        norm_HT: Σ ‖g‖.
        square_HT: Σ ‖g‖².
        vector_HTW: Σ g, or its sketch (`rocktok.hashing.sketch`).
        count_H: occurrences of all types, also of those that are not among T.
        global_HW: Σ g over them.
        balanced_HW: Σ g/n, with n the frequency of the type in both halves together.
        sketch_dims: W where the vectors are sketches; 0 where they are exact.

    >>> geometry(  # two occurrences of one type, one in each half: orthogonal unit vectors
    ...     token_T=np.array([7]), count_HT=np.array([[1], [1]]), norm_HT=np.ones((2, 1)),
    ...     square_HT=np.ones((2, 1)), vector_HTW=np.array([[[1.0, 0]], [[0, 1.0]]]),
    ...     count_H=np.array([1, 1]), global_HW=np.eye(2), balanced_HW=np.eye(2) / 2,
    ... ).coherence
    array([0.])
    """
    counts = _Counts(count_HT, norm_HT.sum(axis=0), square_HT.sum(axis=0), count_H)
    total_KHW = np.stack([balanced_HW, global_HW])
    pieces = _pieces(vector_HTW, total_KHW, sketch_widths(sketch_dims) if sketch_dims else None)
    replicates = None
    if sketch_dims:
        left_out = [_measures(pieces.without(r), counts) for r in range(SKETCH_TABLES)]
        replicates = {name: np.stack([values[name] for values in left_out]) for name in MEASURES}
    return Geometry(
        token_T=token_T,
        frequency_T=counts.n_T,
        half_frequency_HT=count_HT,
        **_measures(pieces.mean(), counts),
        sketch_dims=sketch_dims,
        replicates=replicates,
    )


@dataclass(frozen=True)
class _Counts:
    """What is known exactly, whether vectors are sketched or not."""

    count_HT: Array
    norm_T: Array
    square_T: Array
    count_H: Array

    @property
    def n_T(self) -> Array:
        n_T: Array = self.count_HT.sum(axis=0)
        return n_T


@dataclass(frozen=True)
class _Pieces:
    """Inner products, once a table (leading R) or combined: of halves of a type with each other,
    with halves of the totals, and of halves of the totals with each other."""

    own: Array  # (R, H, H, T)
    shared: Array  # (R, K, H of the type, H of the total, T)
    total: Array  # (R, K, H, H)

    def mean(self) -> _Pieces:
        return _Pieces(*(part.mean(axis=0) for part in (self.own, self.shared, self.total)))

    def without(self, table: int) -> _Pieces:
        kept = np.arange(len(self.own)) != table
        parts = (self.own, self.shared, self.total)
        return _Pieces(*(part[kept].mean(axis=0) for part in parts))


def _pieces(vector_HTW: Array, total_KHW: Array, widths: Sequence[int] | None) -> _Pieces:
    # Not as matrix products: their last bits depend on the number of threads.
    own, shared, total = [], [], []
    ends = list(accumulate(widths or [total_KHW.shape[-1]]))
    for start, end in zip([0, *ends], ends, strict=False):
        part_HTW, sums_KHW = vector_HTW[:, :, start:end], total_KHW[:, :, start:end]
        own.append(np.einsum("gtw,htw->ght", part_HTW, part_HTW))
        shared.append(np.einsum("gtw,khw->kght", part_HTW, sums_KHW))
        total.append(np.einsum("kgw,khw->kgh", sums_KHW, sums_KHW))
    return _Pieces(np.stack(own), np.stack(shared), np.stack(total))


def _measures(pieces: _Pieces, counts: _Counts) -> dict[str, Array]:
    n_T = counts.n_T
    square_T = pieces.own.sum(axis=(0, 1))  # ‖Σg‖²
    beyond_T = square_T - counts.square_T  # Σ g·g' over pairs of different occurrences
    pairs_T = counts.norm_T**2 - counts.square_T
    alone_T = (n_T < 2) | (pairs_T <= _ROUNDING * counts.norm_T**2)
    cos_balanced, cos_global = (
        _divide(pieces.shared[kind].sum(axis=(0, 1)), square_T, pieces.total[kind].sum())
        for kind in (_BALANCED, _GLOBAL)
    )
    return {
        "mean_norm": np.sqrt(square_T) / n_T,
        "cos_balanced": cos_balanced,
        "cos_global": cos_global,
        "contribution": np.sqrt(square_T) * cos_balanced,
        "squared_mean": _where(n_T >= 2, beyond_T, n_T * (n_T - 1.0)),
        "coherence": _where(~alone_T, beyond_T, pairs_T),
        "split_cos_balanced": _split(pieces, counts, _BALANCED),
        "split_cos_global": _split(pieces, counts, _GLOBAL),
    }


def _split(pieces: _Pieces, counts: _Counts, kind: int) -> Array:
    """Cosine of one half of a type with the other half of a total, without the type there."""
    own_T = 1.0 / counts.n_T if kind == _BALANCED else np.ones(len(counts.n_T))
    ways = []
    for here, there in ((0, 1), (1, 0)):
        total = pieces.total[kind, there, there]
        dot_T = pieces.shared[kind, here, there] - own_T * pieces.own[here, there]
        rest_T = total - 2 * own_T * pieces.shared[kind, there, there]
        rest_T = rest_T + own_T**2 * pieces.own[there, there]
        lacking_T = (counts.count_HT == 0).any(axis=0)
        lacking_T |= counts.count_HT[there] == counts.count_H[there]
        lacking_T |= rest_T <= _ROUNDING * total
        ways.append(np.where(lacking_T, np.nan, _divide(dot_T, pieces.own[here, here], rest_T)))
    return (ways[0] + ways[1]) / 2


def _divide(dot_T: Array, square_T: Array, other: Array) -> Array:
    """dot / √(square · other): a cosine, null where a vector is 0, and never beyond ±1."""
    scale_T = np.sqrt(np.maximum(square_T, 0) * np.maximum(other, 0))
    return np.clip(_where(scale_T > 0, dot_T, scale_T), -1.0, 1.0)


def _where(there_T: Array, over_T: Array, under_T: Array) -> Array:
    """over / under, null elsewhere."""
    quotient_T = np.full(len(over_T), np.nan)
    np.divide(over_T, under_T, out=quotient_T, where=there_T)
    return quotient_T


def _jackknife(values_R: Array) -> Array:
    """Standard error (over the first axis) from the values with one table left out."""
    tables = len(values_R)
    squares: Array = ((values_R - values_R.mean(axis=0)) ** 2).sum(axis=0)
    error: Array = np.sqrt((tables - 1) / tables * squares)
    return error
