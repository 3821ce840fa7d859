"""Notes on how groups were chosen, and on groups that could not be formed."""

from __future__ import annotations

from rocktok.analyses.stagnation.choose import ComparedGroups
from rocktok.analyses.stagnation.result import DESCRIPTIVE, StagnationParams
from rocktok.stats.group_names import CONTROL, HIGH_KL, LOSS_CONTROL, RANDOM, ROCKS
from rocktok.stats.groups import FLOORS, note_overlap


def notes_on(
    groups: ComparedGroups,
    params: StagnationParams,
    *,
    no_rocks: str | None,
    rocks_given: bool,
    pairs_given: int | None,
    table: str,
    step: int,
) -> list[str]:
    """The notes on groups.

    Args:
        no_rocks: reason without rocks; None: there are rocks, or they were given.
        pairs_given: number of given pairs of a rock and its control; None: pairs are matched.
        table, step: table and step at which groups were chosen.
    """
    at = f"{table}/ at step {step}"
    notes = [] if no_rocks is None else [no_rocks]
    if rocks_given:
        notes.append(
            "the rocks were given: if they were chosen on these prompts or at a later step, "
            f"results are {DESCRIPTIVE}"
        )
    if pairs_given is not None:
        lost = pairs_given - len(groups.pairs["control"])
        notes.append(
            "control: the pairs were given; the balance shows how similar they are here"
            + (f" ({lost} left out: not in {at})" if lost else "")
        )
    if not rocks_given and params.select_at == "last":
        notes.append(f"groups chosen at the last step: {DESCRIPTIVE}")
    if table == "rollout":
        notes.append(
            "each step has its own rollouts, which mixes learning with drift of the contexts; "
            "fixed text separates them (record with fixed_sequences, or `rocktok rescore`)"
        )
    return notes + _few(groups, params.group_size, at)


def _few(groups: ComparedGroups, asked: int | None, at: str) -> list[str]:
    """Groups that are empty or smaller than asked for, and why."""
    first = groups.first
    if not groups.members[first]:
        if not groups.common:
            return [f"no groups: no type occurs {FLOORS} in {at}; record more prompts"]
        return [f"no groups: no type that occurs {FLOORS} has a loss in {at}"]
    if not groups.others:
        beside = "the rocks" if first == ROCKS.name else f"those of {first}"
        return [
            f"random and the matched groups are empty: no type except {beside} occurs {FLOORS} "
            f"in {at}"
        ]
    notes = note_overlap(groups.members)
    sizes: dict[int, list[str]] = {}
    for name in (HIGH_KL.name, RANDOM.name):
        sizes.setdefault(len(groups.members[name]), []).append(name)
    for size, names in sizes.items():
        if asked is not None and size < asked:
            have = "has" if len(names) == 1 else "have"
            notes.append(
                f"{' and '.join(names)} {have} {size} types, not {asked}: there are no more"
            )
    ours = "rock" if first == ROCKS.name else f"type of {first}"
    return notes + [
        f"{name}: no {ours} has a match within the calipers"
        for name in (CONTROL.name, LOSS_CONTROL.name)
        if not groups.pairs[name]
    ]
