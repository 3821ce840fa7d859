"""Retained occurrences of many types, and votes of their clusters, under every setting.

The settings are those of each γ: η "auto" with the null at each distance, then each η that is a
number.

Array suffixes: N judged occurrences, one type after another; M of one type; E picks of draws,
likewise; D of one type at one distance; T types; G values of γ; K distances; H values of η;
S settings; C clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect.compared import Windows, partner_counts
from rocktok.analyses.detect.context import Partners
from rocktok.analyses.detect.null import NULL_SHARE, null_thresholds
from rocktok.report.grid_draws import Draws
from rocktok.stats.tally import run_starts


@dataclass(frozen=True)
class Votes:
    """What the occurrences of some types came to.

    Attributes:
        hits_TS, votes_TS: retained occurrences; the retained share in each cluster, added up.
        voters_T: clusters that hold a judged occurrence.
        rate_N, retained_N: ρ, and what is retained, at one setting; 0 where it has no null.
    """

    hits_TS: Array
    votes_TS: Array
    voters_T: Array
    rate_N: Array
    retained_N: Array

    @classmethod
    def zeros(cls, types: int, settings: int, rows: int) -> Votes:
        """As many, all of them 0."""
        shape = types, settings
        hits_TS, votes_TS = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        voters_T = np.zeros(types, dtype=np.int64)
        return cls(hits_TS, votes_TS, voters_T, np.zeros(rows), np.zeros(rows, dtype=bool))


@dataclass(frozen=True)
class Counted:
    """Judged occurrences of some types and draws of their nulls, with similar partners of each.

    Attributes:
        ours: windows of each type.
        draws: of the nulls.
        similar_NG, similar_EG: of each occurrence and each pick, at each γ.
        cluster_N: None: nobody votes.
    """

    ours: Sequence[Windows]
    draws: Draws
    similar_NG: Array
    similar_EG: Array
    cluster_N: Array | None

    @property
    def ptr_T(self) -> Array:
        """Where the occurrences of each type begin, (T + 1,)."""
        ptr_T: Array = np.cumsum([0, *map(len, self.ours)])
        return ptr_T

    def slices(self) -> Iterator[slice]:
        """Rows of each type."""
        for begin, end in zip(self.ptr_T[:-1].tolist(), self.ptr_T[1:].tolist(), strict=True):
            yield slice(begin, end)

    def votes(self, eta_H: Array, own: int) -> Votes:
        """Type by type. `own`: the setting of which rates are wanted, and what is retained."""
        draws, far_TK = self.draws, self.draws.far_TK
        gammas, nulls = self.similar_NG.shape[1], far_TK.shape[1]
        kinds = nulls + len(eta_H)
        found = Votes.zeros(len(self.ours), gammas * kinds, len(self.similar_NG))
        edges = zip(draws.pick_ptr_T[:-1].tolist(), draws.pick_ptr_T[1:].tolist(), strict=True)
        for t, (at, (first, last)) in enumerate(zip(self.slices(), edges, strict=True)):
            windows, picked = self.ours[t], draws.pick_E[first:last]
            similar_GM = self.similar_NG[at].T
            rate_GM = _rates(self.similar_NG[at], partner_counts(windows, windows)).T
            drawn = Windows(draws.windows.window_MK[picked], draws.windows.label_M[picked])
            similar_EG = self.similar_EG[first:last]
            rate_EG = _rates(similar_EG, partner_counts(drawn, windows))
            retained = np.zeros((gammas, kinds, len(windows)), dtype=bool)
            for k, far in enumerate(far_TK[t].tolist()):
                if far >= 0:
                    near_E = draws.near_EK[first:last, far]
                    count_G = null_thresholds(similar_EG[near_E])
                    rate_G = null_thresholds(rate_EG[near_E])
                    retained[:, k] = (similar_GM > count_G[:, None]) & (rate_GM > rate_G[:, None])
            retained[:, nulls:] = (rate_GM[:, None] >= eta_H[:, None]) & (rate_GM > 0)[:, None]
            retained_SM = retained.reshape(gammas * kinds, len(windows))
            found.hits_TS[t] = retained_SM.sum(axis=1)
            if self.cluster_N is not None and len(windows):
                found.voters_T[t], found.votes_TS[t] = _votes(retained_SM, self.cluster_N[at])
            if own % kinds >= nulls or far_TK[t, own % kinds] >= 0:
                found.rate_N[at], found.retained_N[at] = rate_GM[own // kinds], retained_SM[own]
        return found

    def votes_compiled(self, eta_H: Array, own: int) -> Votes:
        """The same bits, all types in one loop."""
        from rocktok.report import grid_loops

        draws, far_TK = self.draws, self.draws.far_TK
        kinds = far_TK.shape[1] + len(eta_H)
        settings = self.similar_NG.shape[1] * kinds
        found = Votes.zeros(len(self.ours), settings, len(self.similar_NG))
        labels = np.concatenate([windows.label_M for windows in self.ours])
        distinct, label_N = np.unique(labels, return_inverse=True)
        label_W = np.full(len(draws.windows), -1)
        if len(distinct):
            place_W = np.minimum(
                np.searchsorted(distinct, draws.windows.label_M), len(distinct) - 1
            )
            known_W = distinct[place_W] == draws.windows.label_M
            label_W[known_W] = place_W[known_W]
        cluster_N = self.cluster_N
        if cluster_N is None:
            cluster_N = np.zeros(len(label_N), dtype=np.int64)
        type_N = np.repeat(np.arange(len(self.ours)), np.diff(self.ptr_T))
        grid_loops.judge(
            grid_loops.Judged(
                self.similar_NG,
                self.similar_EG,
                label_N,
                label_W,
                cluster_N,
                np.lexsort((cluster_N, type_N)),
                self.ptr_T,
                draws.pick_ptr_T,
                draws.pick_E,
                draws.near_EK,
                far_TK,
            ),
            NULL_SHARE,
            eta_H,
            own,
            found.hits_TS,
            found.votes_TS,
            found.voters_T,
            found.rate_N,
            found.retained_N,
        )
        if self.cluster_N is None:
            found.votes_TS[:], found.voters_T[:] = 0.0, 0
        return found


def _rates(similar_MG: Array, partners_M: Array) -> Array:
    """ρ at each γ."""
    return np.stack([Partners(s, partners_M).rate_M for s in similar_MG.T], axis=1)


def _votes(retained_SM: Array, cluster_M: Array) -> tuple[int, Array]:
    """Clusters, and their votes (S,), in their order."""
    order = np.argsort(cluster_M, kind="stable")
    starts = run_starts(cluster_M[order])
    judged_C = np.diff(np.append(starts, len(cluster_M)))
    retained_SC = np.add.reduceat(retained_SM[:, order].astype(np.int64), starts, axis=1)
    votes_S: Array = np.cumsum(retained_SC / judged_C, axis=1)[:, -1]
    return len(starts), votes_S
