"""The passes behind `detect --lifts`: lifts of the rocks, and the rocks of permuted labels."""

from __future__ import annotations

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.context_passes import Contexts
from rocktok.analyses.detect.lifts import LIFT_SAMPLE, HardBootstrap, Lifts, context_lift
from rocktok.analyses.detect.persistence import (
    Choice,
    Others,
    PersistentWindows,
    of_type,
    sample_limits,
)
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import PermutedRow

#: Types to a pass: their windows and replicates take some 100 MB.
ROUND_LIFTS = 250


def lifts(contexts: Contexts, types: TypeTable, rocks: Array) -> dict[int, Lifts]:
    """Token id → lifts, of the rocks (indices); a pass for each 250."""
    by_token: dict[int, Lifts] = {}
    for start in range(0, len(rocks), ROUND_LIFTS):
        by_token |= _round(contexts, types, rocks[start : start + ROUND_LIFTS])
    return by_token


def _round(contexts: Contexts, types: TypeTable, rocks: Array) -> dict[int, Lifts]:
    assert types.persistent_T is not None
    params, rule = contexts.params, contexts.rule
    token_T = types.token_T[rocks]
    counts_T = types.persistent_T[rocks], (types.frequency_T - types.persistent_T)[rocks]
    hard = HardBootstrap(token_T, contexts.thresholds, params.seed)
    choices: tuple[Choice, Choice] = contexts.thresholds, Others(contexts.thresholds)
    both = []
    for choice, count_T in zip(choices, counts_T, strict=True):
        counts = dict(zip(token_T.tolist(), count_T.tolist(), strict=True))
        limit_V = sample_limits(counts, LIFT_SAMPLE, lambda n: n > LIFT_SAMPLE)
        both.append(PersistentWindows(choice, params.window, params.seed, limit_V))
    contexts.engine.run(contexts.source, hard, *both)
    occurrences = [windows.result() for windows in both]
    by_token = {}
    for v, most in zip(token_T.tolist(), np.maximum(*counts_T).tolist(), strict=True):
        persistent, other = (of_type(rows, v, LIFT_SAMPLE) for rows in occurrences)
        context = context_lift(rule.similarity, rule.partners, persistent, other, params.seed)
        by_token[v] = Lifts(hard.lift(v), *context, sampled=most > LIFT_SAMPLE)
    return by_token


def permuted(contexts: Contexts, types: TypeTable, rocks: Array, score_T: Array) -> PermutedRow:
    """How many types would be rocks if who is persistent were drawn at random within types."""
    drawn = contexts.permuted(types)
    assert types.persistent_T is not None
    assert drawn.persistent_T is not None
    again_T = analysis.scores(drawn)
    _, is_rock = analysis.ranking(drawn, contexts.params, again_T)
    lowest = float(score_T[rocks].min()) if len(rocks) else None
    allowed_T = ~types.excluded_T(contexts.params)
    reach = 0 if lowest is None else int((allowed_T & (again_T >= lowest)).sum())
    return {
        "rocks": len(rocks),
        "rocks_permuted": int(is_rock.sum()),
        "lowest_score": lowest,
        "reach_lowest": reach,
        "judged": len(drawn.context),
        "complete": bool((drawn.persistent_T == types.persistent_T).all()),
    }
