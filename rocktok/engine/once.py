"""What several analyses of one log ask for, answered once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rocktok.engine.made import PassMade
from rocktok.engine.turns import Life

#: Answers that are kept.
KEPT = 3


@dataclass
class Answer:
    """What was asked of a log once, for all who ask the same; `there`: it is known."""

    on: object
    key: object
    value: Any = None
    there: bool = False
    under_way: bool = False
    passes: Sequence[PassMade] = ()

    def make(self, make: Callable[[], Any], made: Sequence[PassMade], here: Life | None) -> None:
        """Answer; `made`: all passes, to which those for it are added; `here`: who asks."""
        before = len(made)
        self.under_way = True
        try:
            self.value = make()
            self.there = True
        finally:
            self.under_way = False
        self.passes = [each for each in made[before:] if each.served(here)]


class Answers:
    """The last answers, `KEPT` of them."""

    def __init__(self) -> None:
        self._kept: list[Answer] = []

    def to(self, on: object, key: object) -> Answer:
        """The answer that is kept, or a new one in the place of the oldest."""
        for answer in self._kept:
            if answer.on is on and answer.key == key:
                return answer
        self._kept = [*self._kept[1 - KEPT :], Answer(on, key)]
        return self._kept[-1]
