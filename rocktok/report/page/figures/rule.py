"""The rule that named the rocks, where a figure shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from rocktok.report.naming import NO_ROCKS, RockNames


def _names(numbers: object) -> RockNames | None:
    """None: numbers of an older report.json."""
    return cast(Mapping[str, RockNames], numbers).get("named")


def without_rocks(numbers: object) -> bool:
    """Whether the numbers say that there are no rocks."""
    names = _names(numbers)
    return names is not None and names["rocks"].startswith(NO_ROCKS)


def named(numbers: object, default: str = "rocks") -> str:
    """The rocks, for a legend: how many, by which rule."""
    names = _names(numbers)
    return default if names is None else names["rocks"]


def with_names(label: str, numbers: object) -> str:
    """The label of an axis, and under it the rocks."""
    names = _names(numbers)
    return label if names is None else f"{label}\n{names['rocks']}"


def with_rule(caption: str, numbers: object) -> str:
    """A caption, and a sentence on the rule."""
    names = _names(numbers)
    return caption if names is None else f"{caption} {names['rule']}"
