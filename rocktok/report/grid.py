"""Types judged anew at every γ, η and distance of the null.

A pair of windows is looked at once: its similarity is the same, only the threshold moves. Of types
with many persistent occurrences a sample is judged.

Array suffixes: M judged occurrences; D draws of a null; E draws of all nulls of a type; G values of
γ; S settings; C clusters; W draws of all types judged together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.compared import Windows, partner_counts
from rocktok.analyses.detect.context import ContextRule, Partners
from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.detect.gamma import gamma_of, random_pairs
from rocktok.analyses.detect.null import DRAWS, Null, distances, null_thresholds
from rocktok.analyses.detect.params import MIN_SIMILARITY
from rocktok.analyses.detect.persistence import of_type
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.tested import Recurrence
from rocktok.stats.tally import run_starts

Eta = float | Literal["auto"]

#: γ, and η as a number; "auto" is judged at each distance of the null, too. Of hidden states γ is
#: what such shares of random pairs do not exceed.
GAMMAS = (0.3, 0.4, 0.5, 0.6, 0.7)
GAMMA_SHARES = (0.8, 0.9, 0.95, 0.98, 0.99)
ETAS = (0.01, 0.02, 0.05, 0.1, 0.2)

#: Maximum number of judged persistent occurrences per type.
MOST = 500

#: Windows and draws that are compared in one call, of some 500 bytes each.
TOGETHER = 1 << 15


@dataclass(frozen=True)
class Setting:
    """One cell of the grid: γ, η, and how far from v the null is drawn (None: η is a number).

    Where too few positions are that far, the null is drawn at the next smaller distance.
    """

    gamma: float
    eta: Eta
    distance: int | None


@dataclass(frozen=True)
class TypeShares:
    """Retained occurrences of one type under every setting.

    `recurrence`: not judgeable where too few positions are left for the null. `rate_M`,
    `retained_M`: at the setting of the log's own `detect`.
    """

    recurrence: dict[Setting, Recurrence]
    rate_M: Array
    retained_M: Array

    def share(self, setting: Setting) -> float | None:
        """Share of the judged occurrences that is retained; None: not judgeable."""
        found = self.recurrence[setting]
        # With hidden states, no context of a type may be known.
        return found.hits / max(1, found.judged) if found.judgeable else None


def gammas_of(detection: Detection) -> tuple[float, ...]:
    """γ of the grid."""
    contexts = detection.contexts
    if contexts is None or contexts.null is None or detection.params.similarity != "hidden":
        return GAMMAS
    bits_E = random_pairs(contexts.null.pool, detection.params.partners)
    return tuple(gamma_of(bits_E, share) for share in GAMMA_SHARES)


def settings(
    gamma: float, eta: Eta, distances: tuple[int, ...], gammas: tuple[float, ...] = GAMMAS
) -> list[Setting]:
    """The grid, with the γ and η in use among its values; nulls in their order."""
    gammas = tuple(sorted({*gammas, gamma}))
    etas = sorted({*ETAS, *(() if eta == "auto" else (eta,))})
    return [
        Setting(g, e, d)
        for g in gammas
        for e, d in [*(("auto", d) for d in distances), *((e, None) for e in etas)]
    ]


def setting_of(params: DetectParams) -> Setting:
    """The setting that `detect` used."""
    far = distances(params.window_size)[0] if params.eta == "auto" else None
    return Setting(gamma_in_use(params), params.eta, far)


def gamma_in_use(params: DetectParams) -> float:
    """γ, as a finished `detect` has it."""
    found = params.min_similarity
    # With one step no contexts are compared, and "auto" has not become anything.
    return MIN_SIMILARITY if found is None else found


@dataclass(frozen=True)
class Kinds:
    """The settings at each γ: η "auto" at each of some distances, then each η that is a number.

    `gamma_G` ascends; `grid`: of each γ all of these, in this order.
    """

    gamma_G: Array
    distances: tuple[int, ...]
    eta_H: Array
    grid: list[Setting]

    @classmethod
    def of(cls, detection: Detection) -> Kinds:
        """Those of the grid, with the γ and η in use among them."""
        params = detection.params
        near = distances(params.window_size)
        grid = settings(gamma_in_use(params), params.eta, near, gammas_of(detection))
        gammas = sorted({setting.gamma for setting in grid})
        etas = sorted({setting.eta for setting in grid if setting.eta != "auto"})
        return cls(np.array(gammas), near, np.array(etas), grid)


@dataclass(frozen=True)
class _Draws:
    """Draws of the nulls of some types.

    Attributes:
        windows: W of them.
        picks: of each type, which of these are among its draws at any distance, ascending.
        places: of each type, distance → places of its draws among `picks`.
    """

    windows: Windows
    picks: list[Array]
    places: list[dict[int, Array]]

    @classmethod
    def of(
        cls, null: Null | None, tokens: list[int], near: tuple[int, ...], none: Windows
    ) -> _Draws:
        """Each position of the shared pool once, however many nulls it is drawn for.

        `none`: windows of their kind, no row of them.
        """
        shared: dict[tuple[int, int], Array] = {}
        single: dict[tuple[int, int], Windows] = {}
        for key in [] if null is None else [(v, d) for v in tokens for d in near]:
            assert null is not None
            rows = null.shared_rows(*key)
            if rows is not None:
                shared[key] = rows
            elif (windows := null.at(*key)) is not None:
                single[key] = windows
        drawn, at = none, {}
        if shared:
            assert null is not None
            used = np.unique(np.concatenate(list(shared.values())))
            drawn = null.shared_windows(used)
            at = {key: np.searchsorted(used, rows) for key, rows in shared.items()}
        for key, windows in single.items():
            at[key] = np.arange(len(drawn), len(drawn) + len(windows))
            drawn = drawn.joined(windows)
        picks, places = [], []
        for v in tokens:
            of_v = {d: at[v, d] for d in near if (v, d) in at}
            picked = np.unique(np.concatenate([np.zeros(0, np.int64), *of_v.values()]))
            picks.append(picked)
            places.append({d: np.searchsorted(picked, rows) for d, rows in of_v.items()})
        return cls(drawn, picks, places)


@dataclass(frozen=True)
class _Judging:
    """How types are judged. `windows`: of persistent occurrences of all of them."""

    rule: ContextRule
    null: Null | None
    windows: dict[str, Array]
    kinds: Kinds
    own: Setting

    def of_types(self, tokens: list[int]) -> list[TypeShares]:
        """Some types under every setting."""
        rows = [of_type(self.windows, v, MOST) for v in tokens]
        ours = [self.rule.windows(of_v) for of_v in rows]
        draws = _Draws.of(self.null, tokens, self.kinds.distances, ours[0].rows(slice(0, 0)))
        similar_NG, similar_EG = self.rule.similarity.count_levels(
            ours, draws.windows, draws.picks, self.kinds.gamma_G
        )
        found = []
        at = drawn = slice(0, 0)
        for of_v, windows, picked, places in zip(
            rows, ours, draws.picks, draws.places, strict=True
        ):
            at = slice(at.stop, at.stop + len(windows))
            drawn = slice(drawn.stop, drawn.stop + len(picked))
            own = _Counts(similar_NG[at], partner_counts(windows, windows))
            others = Windows(draws.windows.window_MK[picked], draws.windows.label_M[picked])
            null = _Counts(similar_EG[drawn], partner_counts(others, windows))
            clusters = self.rule.clusters
            cluster_M = None if clusters is None else clusters.of(of_v["prompt"])
            found.append(self._shares(own, null, places, cluster_M))
        return found

    def _shares(
        self, own: _Counts, null: _Counts, places: dict[int, Array], cluster_M: Array | None
    ) -> TypeShares:
        """One type. `null`: of all its draws; `places`: of those at a distance."""
        near, eta_H = self.kinds.distances, self.kinds.eta_H
        similar_GM, rate_GM = own.similar_MG.T, own.rate_MG.T
        shape = len(rate_GM), len(near) + len(eta_H), rate_GM.shape[1]
        retained, judgeable = np.zeros(shape, dtype=bool), np.ones(shape[:2], dtype=bool)
        for k, distance in enumerate(near):
            # Where too few are so far, those of the next smaller distance.
            far = max((d for d in places if d <= distance), default=None)
            judgeable[:, k] = far is not None
            if far is not None:
                count_G = null_thresholds(null.similar_MG[places[far]])
                rate_G = null_thresholds(null.rate_MG[places[far]])
                retained[:, k] = (similar_GM > count_G[:, None]) & (rate_GM > rate_G[:, None])
        positive_GM = rate_GM > 0
        retained[:, len(near) :] = (rate_GM[:, None] >= eta_H[:, None]) & positive_GM[:, None]
        retained_SM = retained.reshape(shape[0] * shape[1], shape[2])
        judgeable_S = judgeable.ravel()
        at = self.kinds.grid.index(self.own)
        rate_M = rate_GM[at // shape[1]] if judgeable_S[at] else np.zeros(shape[2])
        found = _recurrences(retained_SM, judgeable_S, cluster_M)
        by_setting = dict(zip(self.kinds.grid, found, strict=True))
        return TypeShares(by_setting, rate_M, retained_SM[at])


@dataclass(frozen=True)
class _Counts:
    """Of some rows, similar partners at each γ, and all partners."""

    similar_MG: Array
    partners_M: Array

    @cached_property
    def rate_MG(self) -> Array:
        """ρ at each γ."""
        return np.stack([Partners(s, self.partners_M).rate_M for s in self.similar_MG.T], axis=1)


def _recurrences(
    retained_SM: Array, judgeable_S: Array, cluster_M: Array | None
) -> Iterator[Recurrence]:
    """Of each setting, as `context_counts` has it of one."""
    judged = retained_SM.shape[1]
    hits_S, votes_S, voters = retained_SM.sum(axis=1), np.zeros(len(retained_SM)), 0
    if cluster_M is not None and judged:
        order = np.argsort(cluster_M, kind="stable")
        starts = run_starts(cluster_M[order])
        judged_C, voters = np.diff(np.append(starts, judged)), len(starts)
        retained_SC = np.add.reduceat(retained_SM[:, order].astype(np.int64), starts, axis=1)
        votes_S = np.cumsum(retained_SC / judged_C, axis=1)[:, -1]
    for hits, votes, judgeable in zip(
        hits_S.tolist(), votes_S.tolist(), judgeable_S.tolist(), strict=True
    ):
        if judgeable:
            yield Recurrence(judged, hits, voters, votes, judgeable=True, retained=float(hits))
        else:
            yield Recurrence(judged, 0, 0, 0.0, judgeable=False, retained=0.0)


def judge_types(
    detection: Detection, indices: list[int], windows: dict[str, Array]
) -> dict[int, TypeShares]:
    """Index → the type under every setting. `windows`: of persistent occurrences of all of them."""
    if detection.contexts is None:
        return {}
    rule, engine = detection.contexts.rule, detection.run.engine
    if detection.source.large:
        rule = replace(rule, similarity=rule.similarity.compiled())
    judging = _Judging(
        rule, detection.contexts.null, windows, Kinds.of(detection), setting_of(detection.params)
    )
    token_T = detection.types.token_T
    calls = ((tokens,) for tokens in _cut(token_T[indices].tolist(), windows, judging.kinds))
    found = engine.on_threads(judging.of_types, calls, engine.jobs + 1)
    shares = [one for some in found for one in some]
    return dict(zip(indices, shares, strict=True))


def _cut(tokens: list[int], windows: dict[str, Array], kinds: Kinds) -> Iterator[list[int]]:
    """Types that are judged in one call each, in their order."""
    ready: list[int] = []
    held = 0
    for v in tokens:
        size = min(MOST, len(of_type(windows, v).get("loss", ())))
        size += len(kinds.distances) * DRAWS
        if ready and held + size > TOGETHER:
            yield ready
            ready, held = [], 0
        ready.append(v)
        held += size
    if ready:
        yield ready
