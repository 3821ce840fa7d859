"""Which arms a run has: rocks, their controls and placebos, in each mode."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rocktok.replay.intervene.arms import (
    IN_CONTEXT,
    MODES,
    PLACEBO,
    ROCK,
    Candidate,
    Plan,
    completions_with,
    placebo_contexts,
    placebos,
)

if TYPE_CHECKING:
    from rocktok.replay.intervene.candidates import Candidates, Occurrences
    from rocktok.replay.intervene.loading import Models
    from rocktok.replay.intervene.options import Options
    from rocktok.replay.intervene.trial import Baseline, Trial


def make_plans(
    trial: Trial,
    baseline: Baseline,
    candidates: Candidates,
    options: Options,
    models: Models,
    occurrences: Occurrences | None,
    notes: list[str],
) -> list[Plan]:
    """All arms, by mode, then rocks before their controls; `notes` is told what is missing.

    `occurrences`: for mode ban-in-context.
    """
    types = [*map(Candidate, candidates.rocks), *candidates.controls]
    if options.placebos:
        excluded = {
            *(one.token_id for one in types),
            *models.terminal_ids,
            *models.special_ids,
        }
        held = completions_with(baseline.texts)
        drawn = placebos(candidates.rocks, held, excluded)
        types += drawn
        alone = len(set(candidates.rocks) & set(held)) - len(drawn)
        if alone:
            notes.append(
                f"{alone:,} rocks have no placebo: no other type stands in about as many "
                "completions"
            )
    plans = []
    for mode in (mode for mode in MODES if mode in options.modes):
        found = [Plan(one, mode) for one in types]
        if mode == IN_CONTEXT:
            assert occurrences is not None
            found = _in_context(trial, baseline, found, occurrences, notes)
        plans += found
    return plans


def _in_context(
    trial: Trial,
    baseline: Baseline,
    plans: list[Plan],
    occurrences: Occurrences,
    notes: list[str],
) -> list[Plan]:
    """The plans with their contexts, without those that have none."""
    notes.extend(occurrences.notes)
    made: dict[tuple[str, int], Plan] = {}
    acts: dict[int, int] = {}
    for plan in plans:
        one = plan.candidate
        if one.control_of is not None and (ROCK, one.control_of) not in made:
            continue
        if one.group == PLACEBO:
            assert one.control_of is not None
            like = made[ROCK, one.control_of].contexts
            assert like is not None
            wanted = acts[one.control_of]
            contexts = placebo_contexts(one.token_id, baseline.texts, wanted, like)
        else:
            contexts = occurrences.contexts(one)
        if contexts is None:
            continue
        made[one.group, one.token_id] = chosen = replace(plan, contexts=contexts)
        if one.group == ROCK:
            acts[one.token_id] = int((trial.first_places(chosen, baseline) >= 0).sum())
    rocks = [one.candidate.token_id for one in plans if one.candidate.group == ROCK]
    without = [v for v in rocks if (ROCK, v) not in made]
    if without:
        notes.append(
            f"{len(without):,} rocks have no retained occurrences in the file of occurrences, so "
            "they and their controls have no arm with mode ban-in-context"
        )
    return list(made.values())
