"""Sensitivity of the rocks to γ, η and the distance of the null; typical retained contexts.

Array suffixes: M judged occurrences; T types.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import islice
from typing import Literal, TypedDict

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.detect.null import distances
from rocktok.analyses.detect.persistence import PersistentWindows, sample_limits
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import DetectParams
from rocktok.analyses.detect.tested import MIN_RETAINED
from rocktok.analyses.detect.tested import judge_types as tested_types
from rocktok.analyses.detect.windows import CONTENTS, MISSING, contents_of
from rocktok.report.grid import (
    GAMMAS,
    MOST,
    Eta,
    Setting,
    TypeShares,
    gamma_in_use,
    setting_of,
    settings,
)

#: Maximum number of retained contexts shown per rock.
EXAMPLES = 6

#: Types down the bound on R_ctx that the grid judges, for each rock there may be; where rocks are
#: chosen by score, those whose bound reaches it, at most so many. The rocks are always among them.
CANDIDATES = 2
MOST_TYPES = 1_000


class SensitivityRow(TypedDict):
    """A setting: how many rocks, how many of those in use (`shared`), and the two sets' Jaccard.

    `counts`: which types these are. "rocks": by the rule in use. "hard and recurring": where rocks
    are tested, but η is a number, which no chance of recurring follows from: types that pass by
    hardness alone, and of which enough is retained.
    """

    gamma: float
    eta: Eta
    null_distance: int | None
    counts: Literal["rocks", "hard and recurring"]
    rocks: int
    shared: int
    jaccard: float | None
    loss_share: float


class Example(TypedDict):
    """A retained context: where it stands, how often, and the texts around it.

    `rate`: share of its partners that are similar; `times`: retained occurrences in equal windows.
    """

    sequence_id: int
    position: int
    rate: float
    times: int
    loss_pre: float
    loss_post: float
    before: list[str]
    after: list[str]


class RockContexts(TypedDict):
    """Retained contexts of a rock: the most typical, distinct ones in all, occurrences judged."""

    examples: list[Example]
    distinct: int
    judged: int


def likely_rocks(detection: Detection) -> list[int]:
    """Candidate rocks under any setting (indices), in descending order of their score's bound."""
    if detection.contexts is None:
        return []
    types, params = detection.types, replace(detection.params, all_types=False)
    if detection.contexts.hardness is not None:
        testable = analysis.testable(types, params, detection.contexts.hardness.tests)
        if testable:
            return testable
    order = analysis.candidates(types, params)
    if params.tau_r is None:
        most = CANDIDATES * params.most_rocks
    else:
        bound_T = types.bound_T()
        most = min(sum(bool(bound_T[index] >= params.tau_r) for index in order), MOST_TYPES)
    return [
        index
        for at, index in enumerate(order)
        if at < most or int(types.token_T[index]) in detection.rocks
    ]


def windows_of(detection: Detection, indices: list[int]) -> PersistentWindows:
    """Collects the persistent occurrences of some types, at most `MOST` or a few more of each."""
    types, params = detection.types, detection.params
    assert detection.thresholds is not None
    assert types.persistent_T is not None
    counts = {int(types.token_T[i]): int(types.persistent_T[i]) for i in indices}
    limit_V = sample_limits(counts, MOST, lambda n: n > MOST)
    # The page shows the surrounding text whichever similarity is in use.
    contents = tuple(sorted({CONTENTS[0], contents_of(params.similarity)}))
    return PersistentWindows(
        detection.thresholds, params.window_size, params.seed, limit_V, contents=contents
    )


def grid_rows(
    types: TypeTable,
    params: DetectParams,
    shares: dict[int, TypeShares],
    gammas: tuple[float, ...] = GAMMAS,
) -> list[SensitivityRow]:
    """Number of rocks under each setting, and how many of them `detect` names, too.

    The setting in use gives the rocks in use. The others are judged by at most `MOST` persistent
    occurrences of a type.

    Args:
        types: as `detect` left them; its contexts give the rocks in use.
        shares: index into the types → its shares.
        gammas: of the grid.
    """
    in_use, own = _rocks(types, params, analysis.scores(types)), setting_of(params)
    able_T = None if types.tested is None else _able(types, params)
    rows: list[SensitivityRow] = []
    for setting in settings(
        gamma_in_use(params), params.eta, distances(params.window_size), gammas
    ):
        rocks = in_use if setting == own else rocks_at(setting, types, params, shares, able_T)
        untested = types.tested is not None and setting.eta != "auto"
        union = len(rocks | in_use)
        rows.append(
            {
                "gamma": setting.gamma,
                "eta": setting.eta,
                "null_distance": setting.distance,
                "counts": "hard and recurring" if untested else "rocks",
                "rocks": len(rocks),
                "shared": len(rocks & in_use),
                "jaccard": len(rocks & in_use) / union if union else None,
                "loss_share": float(types.loss_T[sorted(rocks)].sum() / (types.loss_T.sum() or 1)),
            }
        )
    return rows


def rocks_at(
    setting: Setting,
    types: TypeTable,
    params: DetectParams,
    shares: dict[int, TypeShares],
    able_T: Array | None = None,
) -> set[int]:
    """Types (indices) that are rocks under a setting, from the types judged for the grid.

    `able_T`: where rocks are tested, types with enough hardness, if these are known.
    """
    persistent_T, tested = types.persistent_T, types.tested
    assert persistent_T is not None
    mean_T = types.loss_T / types.frequency_T
    if tested is not None and setting.eta != "auto":
        able_T = _able(types, params) if able_T is None else able_T
        share = {i: each.share(setting) for i, each in shares.items()}
        return {i for i, kept in share.items() if able_T[i] and kept and kept >= MIN_RETAINED}
    if tested is not None:
        recurrence = {index: each.recurrence(setting) for index, each in shares.items()}
        judged = tested_types(
            tested.hard, recurrence, mean_T, persistent_T, params.fdr, params.min_hardness
        )
        return set(np.flatnonzero(judged.is_rock & ~types.excluded_T(params)).tolist())
    score_T = np.where(persistent_T == 0, 0.0, np.nan)
    for index, each in shares.items():
        kept = each.share(setting)
        if kept is not None:
            score_T[index] = mean_T[index] * kept * persistent_T[index]
    return _rocks(types, params, score_T)


def _rocks(types: TypeTable, params: DetectParams, score_T: Array) -> set[int]:
    order, is_rock = analysis.ranking(types, params, score_T)
    return set(order[is_rock].tolist())


def _able(types: TypeTable, params: DetectParams) -> Array:
    """Which types (T, bool) have enough hardness for a rock."""
    assert types.tested is not None
    hard = types.tested.hard
    able_T: Array = hard.worth_judging(params.fdr) & (hard.hardness >= params.min_hardness)
    return able_T & ~types.excluded_T(params)


def typical(
    rows: dict[str, Array],
    shares: TypeShares,
    text: Callable[[int], str],
    only: Collection[int] | None = None,
) -> RockContexts:
    """Retained contexts of a rock, the most typical first, with the texts of the token ids.

    Equal windows count as one, shown where it stands first by hash. `only`: of these sequences.
    """
    at = np.flatnonzero(shares.retained_M)
    if only is not None:
        at = at[np.isin(rows["sequence"][at], list(only))]
    order = at[np.lexsort((rows["hash"][at], -shares.rate_M[at]))]
    window_MK = rows["window"][order]
    whole, size = window_MK.tobytes(), window_MK.shape[1] * window_MK.itemsize
    keys = [whole[start : start + size] for start in range(0, len(whole), size)]
    # How many rows have each window, in the order in which they are first met.
    times = Counter(keys)
    half = window_MK.shape[1] // 2
    examples: list[Example] = []
    for key in islice(times, EXAMPLES):
        row = int(order[keys.index(key)])
        window = rows["window"][row]
        examples.append(
            {
                "sequence_id": int(rows["sequence"][row]),
                "position": int(rows["position"][row]),
                "rate": float(shares.rate_M[row]),
                "times": times[key],
                "loss_pre": float(rows["loss_pre"][row]),
                "loss_post": float(rows["loss"][row]),
                "before": _texts(window[:half], text),
                "after": _texts(window[half:], text),
            }
        )
    return {"examples": examples, "distinct": len(times), "judged": len(shares.rate_M)}


def _texts(token_K: Array, text: Callable[[int], str]) -> list[str]:
    """Of the offsets within the completion."""
    return [text(v) for v in token_K.tolist() if v != MISSING]
