"""Whether a log has enough text to tell anything."""

from __future__ import annotations

from typing import TypedDict


class EnoughText(TypedDict):
    """What the fixed text of a log allows, by the default options of `detect`.

    `tests`: types in enough prompts; `testable`: of these, those with enough persistent
    occurrences; `untested_loss_share`: of all others; `text_wanted`: how many times as much text
    until types with half of the loss are testable, None: not to be told.
    """

    positions: int
    tests: int
    testable: int
    untested_loss_share: float | None
    text_wanted: float | None
