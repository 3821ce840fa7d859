"""What a reader of the numbers must know: how groups came to be, and what could not be had."""

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
        no_rocks: why there are none; None: there are, or they were given.
        pairs_given: how many pairs of a rock and its control were given; None: they are matched.
        table, step: where groups were chosen.
    """
    at = f"{table}/ at step {step}"
    notes = [] if no_rocks is None else [no_rocks]
    if rocks_given:
        notes.append(
            "the rocks were given: where they were chosen on these prompts or at a later "
            f"step, this is {DESCRIPTIVE}"
        )
    if pairs_given is not None:
        lost = pairs_given - len(groups.pairs["control"])
        notes.append(
            "control: the pairs given, whatever they were matched on; the balance says how "
            "like they are here" + (f" ({lost} left out: not in {at})" if lost else "")
        )
    if not rocks_given and params.select_at == "last":
        notes.append(f"groups chosen at the last step: {DESCRIPTIVE}")
    if table == "rollout":
        notes.append(
            "each step's own rollouts: learning and drift of the contexts are mixed; fixed "
            "text tells them apart (record with fixed_sequences, or `rocktok rescore`)"
        )
    return notes + _few(groups, params.group_size, at)


def _few(groups: ComparedGroups, asked: int | None, at: str) -> list[str]:
    """What could not be chosen or matched as it was asked for, and why."""
    first = groups.first
    if not groups.members[first]:
        if not groups.common:
            return [f"no groups: no type stands {FLOORS} in {at}; more prompts would tell"]
        return [f"no groups: no type that stands {FLOORS} has a loss in {at}"]
    if not groups.others:
        beside = "the rocks" if first == ROCKS.name else f"those of {first}"
        return [
            f"random and what is matched here are empty: no type but {beside} stands {FLOORS} "
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
        f"{name}: no {ours} has a type like it within the calipers"
        for name in (CONTROL.name, LOSS_CONTROL.name)
        if not groups.pairs[name]
    ]
