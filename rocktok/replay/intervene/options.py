"""Options of `intervene`, checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rocktok.errors import UsageError
from rocktok.replay.intervene.arms import IN_CONTEXT, MODES, REPLACE


@dataclass(frozen=True)
class Options:
    """What is asked for beside models, problems and rocks; see `intervene` for their meaning."""

    modes: tuple[str, ...]
    placebos: bool
    replace_at: str
    max_new_tokens: int
    temperature: float
    rollouts: int
    seeds: tuple[int, ...]
    baselines: int
    chat: bool
    min_similarity: float | None
    batch_tokens: int

    def __post_init__(self) -> None:
        """Raise `UsageError` for what is out of range, or contradicts another option."""
        for name in ("max_new_tokens", "rollouts", "baselines", "batch_tokens"):
            if getattr(self, name) < 1:
                raise _usage(name, f"is {getattr(self, name)}; it must be 1 or more")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise _usage("temperature", f"is {self.temperature:g}; it must be 0 or more")
        if self.min_similarity is not None and not 0 < self.min_similarity <= 1:
            shown = f"is {self.min_similarity:g}; it must be above 0, and at most 1"
            raise _usage("min_similarity", shown)
        for mode in self.modes:
            if mode not in MODES:
                raise _usage("modes", f"has {mode!r}; choose from {', '.join(MODES)}")
        for name in ("modes", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise _usage(name, "is empty" if not values else "has an entry twice")
        if self.replace_at not in ("first", "all"):
            raise _usage("replace_at", f"is {self.replace_at!r}; choose first or all")
        if any(not -(1 << 63) <= seed < 1 << 63 for seed in self.seeds):
            raise _usage("seeds", "has a number beyond 64 bits")
        self._check_greedy()

    def _check_greedy(self) -> None:
        if self.temperature > 0:
            return
        why = "greedy decoding writes the same text each time; give a temperature"
        if self.rollouts > 1:
            raise _usage("rollouts", f"is {self.rollouts}, but {why}")
        if len(self.seeds) > 1:
            raise _usage("seeds", f"has {len(self.seeds)} numbers, but {why}")

    def check_inputs(self, *, teacher: bool, occurrences: bool) -> None:
        """Raise `UsageError` for a mode that lacks what it needs."""
        if REPLACE in self.modes and not teacher:
            raise _usage("modes", "has replace, which needs the teacher's tokens; give a teacher")
        if IN_CONTEXT in self.modes and not occurrences:
            raise _usage(
                "modes",
                "has ban-in-context, which needs occurrences; give a file of `rocktok occurrences`",
            )


def _usage(parameter: str, words: str) -> UsageError:
    return UsageError(f"{parameter} {words}", parameter=parameter)
