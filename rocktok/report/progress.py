"""State of a report in the making: passes by analysis, and what the log lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rocktok.analyses.result import Result
from rocktok.engine.made import PassMade
from rocktok.engine.passes import Engine
from rocktok.engine.turns import Companion
from rocktok.errors import DamagedError, DataError, LogError
from rocktok.log.catalogue import Log
from rocktok.report.other_analyses import Missing, missing_of
from rocktok.report.result import Told

R = TypeVar("R", bound=Result)
T = TypeVar("T")


@dataclass(frozen=True)
class Counted(Generic[T]):
    """A result, and the passes that it took; None, and what is missing, where the log lacks it."""

    result: T
    passes: int
    missing: Missing | None = None


@dataclass(frozen=True)
class Progress:
    """Runs the analyses of a log side by side.

    `tell`: called with each result. `passes`: by analysis. `missing`: what could not be done.
    `before`: passes that the engine had made for others. `ahead`: what goes on for analyses that
    have not begun.
    """

    log: Log
    engine: Engine
    tell: Callable[[Told], None]
    passes: dict[str, int] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    before: int = field(init=False)
    ahead: list[Companion[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "before", len(self.engine.made))

    @property
    def made(self) -> list[PassMade]:
        """All passes of this report."""
        return self.engine.made[self.before :]

    def start(self, name: str, analyse: Callable[[], T]) -> Companion[Counted[T]]:
        """Start an analysis, whose passes are counted."""
        return self.engine.start(lambda: self.counted(analyse), name)

    def start_ahead(self, name: str, make: Callable[[], None]) -> None:
        """Start what an analysis will ask for when it begins; what fails is asked for again."""
        self.ahead.append(self.engine.start(make, name))

    def counted(self, analyse: Callable[[], T]) -> Counted[T]:
        """Run an analysis within one that was started."""
        before = self.engine.passes
        result = analyse()
        return Counted(result, self.engine.passes - before)

    def start_allowed(
        self, name: str, what: str, analyse: Callable[[], R]
    ) -> Companion[Counted[R | None]]:
        """As `start`; None where the log does not allow it. `what` it is, for the reader."""

        def allowed() -> Counted[R | None]:
            try:
                counted = self.counted(analyse)
            except (DamagedError, DataError):
                raise
            except LogError as error:
                return Counted(None, 0, missing_of(self.log, what, error))
            self.tell(counted.result)
            return Counted(counted.result, counted.passes)

        return self.engine.start(allowed, name)

    def note(self, name: str, counted: Counted[T]) -> T:
        """Add the passes of an analysis, or what is missing of it; its result."""
        if counted.missing is not None:
            self.missing.append(counted.missing)
        else:
            self.passes[name] = counted.passes
        return counted.result
