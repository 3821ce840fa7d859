"""The passes behind `detect --lifts`: lifts of the rocks, and the rocks of permuted labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from rocktok._types import Array
from rocktok.analyses.detect import ranking as analysis
from rocktok.analyses.detect.context_passes import Contexts
from rocktok.analyses.detect.lifts import (
    LIFT_SAMPLE,
    ContextLift,
    HardBootstrap,
    Lifts,
    PromptWeights,
    context_lift,
)
from rocktok.analyses.detect.persistence import (
    Choice,
    Others,
    PersistentWindows,
    of_type,
    sample_limits,
)
from rocktok.analyses.detect.ranking import TypeTable
from rocktok.analyses.detect.result import PermutedRow
from rocktok.engine.turns import Companion
from rocktok.errors import LogError
from rocktok.stats.arrays import distinct

#: Half of the prompts whose rocks are looked at; lifts are measured on the other.
CHOSEN_ON = 0

#: Types to a pass: their windows and replicates take some 150 MB.
ROUND_LIFTS = 500

#: Types that a thread is handed at a time: one alone takes a millisecond.
HANDED_OUT = 16

#: Prompts whose bootstrap weights are drawn once for all types of a pass, 1 KB each.
SHARED_PROMPTS = 1 << 14


def lifts_on_other_half(
    contexts: Contexts, types: TypeTable, rocks: Array, chosen: Companion[Array]
) -> dict[int, Lifts]:
    """`lifts` of those rocks (places) that half 0 of the prompts names, too; none if it cannot.

    `chosen`: token ids of the rocks of half 0; whoever asks for it is told why there are none.
    """
    try:
        named = chosen.result()
    except LogError:
        return {}
    return lifts(contexts, types, np.intersect1d(types.token_T[rocks], named))


def lifts(contexts: Contexts, types: TypeTable, rocks: Array) -> dict[int, Lifts]:
    """Token id → lifts of these types (token ids), on half 1 of the prompts; a pass for each 500.

    Rocks recur in like contexts, or they would be none: those that were chosen on the same
    occurrences have too large a lift.
    """
    measured = replace(contexts, source=replace(contexts.source, half=1 - CHOSEN_ON))
    by_token: dict[int, Lifts] = {}
    for start in range(0, len(rocks), ROUND_LIFTS):
        by_token |= _round(measured, types, rocks[start : start + ROUND_LIFTS])
    return by_token


def _round(contexts: Contexts, types: TypeTable, token_T: Array) -> dict[int, Lifts]:
    assert types.persistent_T is not None
    params, rule = contexts.params, contexts.rule
    at = np.searchsorted(types.token_T, token_T)
    counts_T = types.persistent_T[at], (types.frequency_T - types.persistent_T)[at]
    large = contexts.source.large
    hard = HardBootstrap(
        token_T, contexts.thresholds, params.seed, compiled=large, threads=contexts.engine.jobs
    )
    choices: tuple[Choice, Choice] = contexts.thresholds, Others(contexts.thresholds)
    both = []
    for choice, count_T in zip(choices, counts_T, strict=True):
        counts = dict(zip(token_T.tolist(), count_T.tolist(), strict=True))
        # About half of them are in the half that is measured.
        limit_V = sample_limits(counts, 2 * LIFT_SAMPLE, lambda n: n > 2 * LIFT_SAMPLE)
        both.append(
            PersistentWindows(
                choice,
                params.window_size,
                params.seed,
                limit_V,
                contents=(rule.similarity.contents,),
                compiled=large,
            )
        )
    contexts.engine.run(contexts.source, hard, *both)
    occurrences = [windows.result() for windows in both]
    count_T = hard.each("").value
    similarity = rule.similarity.compiled() if large else rule.similarity
    types_of_round = list(zip(hard.types.tolist(), count_T, hard.lifts(), strict=True))
    compared_T = [
        tuple(of_type(rows, v, LIFT_SAMPLE) for rows in occurrences) for v, _, _ in types_of_round
    ]
    weights = _shared_weights(params.seed, occurrences)
    calls = [
        (similarity, rule.partners, persistent, other, params.seed, weights)
        for persistent, other in compared_T
        if persistent and other
    ]
    parts = ((calls[start : start + HANDED_OUT],) for start in range(0, len(calls), HANDED_OUT))
    made = contexts.engine.asides(_context_lifts, parts, contexts.engine.jobs + 1)
    lifts_of_contexts = chain.from_iterable(made)
    by_token = {}
    for (v, count, persistence), (persistent, other) in zip(
        types_of_round, compared_T, strict=True
    ):
        if not persistent or not other:
            continue
        compared = len(persistent["hash"]) + len(other["hash"])
        context, similar, similar_other = next(lifts_of_contexts)
        sampled = bool(compared < count)
        by_token[v] = Lifts(persistence, context, similar, similar_other, sampled=sampled)
    return by_token


def _context_lifts(calls: Sequence[tuple[Any, ...]]) -> list[ContextLift]:
    return [context_lift(*call) for call in calls]


def _shared_weights(seed: int, occurrences: list[dict[str, Array]]) -> PromptWeights | None:
    """Weights of the prompts of all windows; None: too many to hold."""
    prompts = [rows["prompt"] for rows in occurrences if rows]
    prompt_P = distinct(np.concatenate(prompts or [np.zeros(0, np.uint64)]))
    return PromptWeights.draw(seed, prompt_P) if len(prompt_P) <= SHARED_PROMPTS else None


def permuted(
    contexts: Contexts, types: TypeTable, rocks: Array, score_T: Array, chosen: Companion[Array]
) -> PermutedRow:
    """How many types would be rocks if who is persistent were drawn at random within types.

    `chosen`: the search on half 0; it is waited for, so that its windows are not held beside these.
    """
    contexts.engine.until(lambda: chosen.done)
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
