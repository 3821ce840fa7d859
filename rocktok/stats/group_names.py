"""The one vocabulary of groups: names in results, labels, letters and meanings, in their order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GroupName:
    """What a group of token types is called.

    Attributes:
        name: in results, options and messages.
        label: in figures.
        letter: in a table that has one column for all groups.
        meaning: its types, within a sentence.
    """

    name: str
    label: str
    letter: str
    meaning: str


ROCKS = GroupName("rocks", "rocks", "R", "the rocks")
HIGH_LOSS = GroupName("high_loss", "high loss", "H", "the types with the most loss")
HIGH_KL = GroupName("high_kl", "high KL", "k", "the hardest types that are not rocks")
RANDOM = GroupName("random", "random", "r", "random types")
CONTROL = GroupName("control", "control", "c", "their controls")
LOSS_CONTROL = GroupName("loss_control", "loss control", "l", "types of similar loss")

#: What analyses compare: groups that are asked about, then what they are held against.
COMPARED = (ROCKS, HIGH_LOSS, HIGH_KL, RANDOM, CONTROL, LOSS_CONTROL)

#: What rocks, or without any `high_loss`, are held against.
AGAINST = tuple(group.name for group in (HIGH_KL, RANDOM, CONTROL, LOSS_CONTROL))

#: Beside them in figures: no choice of types, but what is left, or all there is.
ALL_POSITIONS = GroupName("all positions", "all positions", "", "all positions together")
OTHERS = GroupName("others", "others", "", "all other types")

NAMES = tuple(group.name for group in COMPARED)
LABELS = {group.name: group.label for group in (*COMPARED, ALL_POSITIONS, OTHERS)}
LETTERS = {group.name: group.letter for group in COMPARED}
MEANINGS = {group.name: group.meaning for group in COMPARED}


def legend(names: tuple[str, ...]) -> str:
    """What the letters stand for.

    >>> legend(("rocks", "control"))
    'R rocks  c control'
    """
    return "  ".join(f"{LETTERS[name]} {name}" for name in names)
