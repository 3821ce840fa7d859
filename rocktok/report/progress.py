"""State of a report in the making: passes by analysis, and what the log lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from rocktok.engine.passes import Engine
from rocktok.errors import DamagedError, DataError, LogError
from rocktok.log.catalogue import Log
from rocktok.report.other_analyses import Missing
from rocktok.report.result import Analysis

A = TypeVar("A", bound=Analysis)
T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """Runs the analyses of a log one by one.

    `tell`: called with each result. `passes`: by analysis. `missing`: what could not be done.
    """

    log: Log
    engine: Engine
    tell: Callable[[Analysis], None]
    passes: dict[str, int] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)

    def counted(self, name: str, analyse: Callable[[], T]) -> T:
        """Run an analysis, count its passes, and return its result."""
        before = self.engine.passes
        result = analyse()
        self.passes[name] = self.engine.passes - before
        return result

    def allowed(self, name: str, what: str, analyse: Callable[[], A]) -> A | None:
        """As `counted`; None, with an entry in `missing`, where the log does not allow it."""
        try:
            result = self.counted(name, analyse)
        except (DamagedError, DataError):
            raise
        except LogError as error:
            self.refused(what, error)
            return None
        self.tell(result)
        return result

    def refused(self, what: str, error: LogError) -> None:
        """Add an entry to `missing`; the error's message has the reason and the remedy."""
        why, _, remedy = str(error).removeprefix(f"{self.log.name}: ").partition("; ")
        self.missing.append({"what": what, "why": why, "remedy": remedy})
