"""Types judged anew at every γ, η and distance of the null.

A pair of windows is looked at once: its similarity is the same, only the threshold moves. Of types
with many persistent occurrences a sample is judged.

Array suffixes: M judged occurrences of a type, N of several; E picks of draws; T types; G values of
γ; H values of η; K distances; S settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.context import ContextRule
from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.detect.gamma import gamma_of, random_pairs
from rocktok.analyses.detect.null import DRAWS, Null, distances
from rocktok.analyses.detect.params import MIN_SIMILARITY
from rocktok.analyses.detect.persistence import of_type
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.tested import Recurrence
from rocktok.report.grid_draws import Draws
from rocktok.report.grid_votes import Counted

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

#: As many times that where loops are compiled: what a call prepares of the draws serves more types.
COMPILED = 4


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

    Attributes:
        place: setting → its place among S of them.
        judged, voters: occurrences, and clusters that hold one.
        hits_S, votes_S: retained occurrences, and votes of the clusters.
        judgeable_S: False where too few positions are left for the null.
        rate_M, retained_M: at the setting of the log's own `detect`.
    """

    place: dict[Setting, int]
    judged: int
    voters: int
    hits_S: Array
    votes_S: Array
    judgeable_S: Array
    rate_M: Array
    retained_M: Array

    def recurrence(self, setting: Setting) -> Recurrence:
        """As `context_counts` has it of one setting."""
        at = self.place[setting]
        if not self.judgeable_S[at]:
            return Recurrence(self.judged, 0, 0, 0.0, judgeable=False, retained=0.0)
        hits, votes = int(self.hits_S[at]), float(self.votes_S[at])
        return Recurrence(
            self.judged, hits, self.voters, votes, judgeable=True, retained=float(hits)
        )

    def share(self, setting: Setting) -> float | None:
        """Share of the judged occurrences that is retained; None: not judgeable."""
        at = self.place[setting]
        # With hidden states, no context of a type may be known.
        return int(self.hits_S[at]) / max(1, self.judged) if self.judgeable_S[at] else None


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

    def judgeable(self, far_TK: Array) -> Array:
        """(T, S) which types there is a null for, where one is asked for."""
        known_TK = np.pad(far_TK >= 0, ((0, 0), (0, len(self.eta_H))), constant_values=True)
        return np.tile(known_TK, len(self.gamma_G))

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
class _Judging:
    """How types are judged. `windows`: of persistent occurrences of all of them."""

    rule: ContextRule
    null: Null | None
    windows: dict[str, Array]
    kinds: Kinds
    own: Setting

    @cached_property
    def place(self) -> dict[Setting, int]:
        """Setting → its place in the grid."""
        return {setting: at for at, setting in enumerate(self.kinds.grid)}

    def of_types(self, tokens: list[int]) -> list[TypeShares]:
        """Some types under every setting."""
        compiled = self.rule.similarity.loaded
        rows = [of_type(self.windows, v, MOST) for v in tokens]
        ours = [self.rule.windows(of_v) for of_v in rows]
        none = ours[0].rows(slice(0, 0))
        draws = Draws.of(self.null, tokens, self.kinds.distances, none, compiled=compiled)
        similar_NG, similar_EG = self.rule.similarity.count_levels(
            ours, draws.windows, draws.picks, self.kinds.gamma_G
        )
        cluster_N = None
        if self.rule.clusters is not None:
            cluster_N = self.rule.clusters.of(np.concatenate([of_v["prompt"] for of_v in rows]))
        counted = Counted(ours, draws, similar_NG, similar_EG, cluster_N)
        judge = counted.votes_compiled if compiled else counted.votes
        votes = judge(self.kinds.eta_H, self.place[self.own])
        judgeable_TS = self.kinds.judgeable(draws.far_TK)
        return [
            TypeShares(
                place=self.place,
                judged=at.stop - at.start,
                voters=int(votes.voters_T[t]),
                hits_S=votes.hits_TS[t],
                votes_S=votes.votes_TS[t],
                judgeable_S=judgeable_TS[t],
                rate_M=votes.rate_N[at],
                retained_M=votes.retained_N[at],
            )
            for t, at in enumerate(counted.slices())
        ]


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
    most = TOGETHER * (COMPILED if rule.similarity.loaded else 1)
    calls = ((tokens,) for tokens in _cut(token_T[indices].tolist(), windows, judging.kinds, most))
    found = engine.asides(judging.of_types, calls, engine.jobs + 1)
    shares = [one for some in found for one in some]
    return dict(zip(indices, shares, strict=True))


def _cut(
    tokens: list[int], windows: dict[str, Array], kinds: Kinds, most: int
) -> Iterator[list[int]]:
    """Types that are judged in one call each, in their order; `most`: windows and draws of one."""
    ready: list[int] = []
    held = 0
    for v in tokens:
        size = min(MOST, len(of_type(windows, v).get("loss", ())))
        size += len(kinds.distances) * DRAWS
        if ready and held + size > most:
            yield ready
            ready, held = [], 0
        ready.append(v)
        held += size
    if ready:
        yield ready
