"""What a stopped `rescore` has left in its output: the steps and sequences that stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.errors import DamagedError, LogError
from rocktok.files import place
from rocktok.log.chunks import REMEDY
from rocktok.log.manifest import load_attempts
from rocktok.log.resume import pick_up, published_sequences
from rocktok.log.run import load_run

if TYPE_CHECKING:
    from rocktok._types import Array
    from rocktok.files import Place
    from rocktok.log.manifest import Manifest


@dataclass(frozen=True)
class Standing:
    """What stands.

    Attributes:
        manifest: of the one attempt; None where none has begun.
        columns: that it records.
        sequences: step that is not finished → ids that stand at it.
        alternatives: likewise, of the table of that name.
        contexts: step → ids in contexts/.
        listed: ids in sequences/.
    """

    manifest: Manifest | None = None
    columns: tuple[str, ...] | None = None
    sequences: dict[int, Array] = field(default_factory=dict)
    alternatives: dict[int, Array] = field(default_factory=dict)
    contexts: dict[int, Array] = field(default_factory=dict)
    listed: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that are finished."""
        return () if self.manifest is None else tuple(self.manifest.steps.get("fixed", ()))

    @property
    def unmarked(self) -> bool:
        """Whether an attempt stands without its final mark."""
        return self.manifest is not None and not self.manifest.final

    @property
    def rows(self) -> int:
        """Rows of all steps."""
        shards = [] if self.manifest is None else self.manifest.shards
        return sum(entry.rows for entry in shards if entry.path.startswith("fixed/"))

    @property
    def state(self) -> bytes:
        """The same for the same rows."""
        return b"" if self.manifest is None else self.manifest.encode()

    def at(self, step: int) -> Array:
        """Ids that stand at a step that is not finished."""
        return self.sequences.get(step, np.zeros(0, dtype=np.int64))

    @property
    def sketched(self) -> frozenset[int]:
        """Ids in contexts/."""
        return frozenset(_all_of(self.contexts).tolist())

    def alternatives_at(self, step: int) -> Array:
        """As `at`, in alternatives/."""
        return self.alternatives.get(step, np.zeros(0, dtype=np.int64))


def standing(output: str, identity: dict[str, Any]) -> Standing:
    """What stands in `output`, of the same text, models and options; changes nothing.

    Raises `LogError` where another run stands there, or files are damaged.
    """
    where = place(output)
    with where.asking():
        if where.exists() and not where.is_directory():
            raise LogError(f"{output}: is no directory; give another -o")
        run = load_run(where) if where.exists() else None
        if run is None:
            return Standing()
        if (run.get("extra") or {}).get("rescore") != identity:
            raise LogError(
                f"{output}: holds a log of other text, models or options; give another -o, or go "
                "on with the same"
            )
        try:
            return _standing(where, str(run.get("run_id", "")))
        except DamagedError as error:
            line = str(error).removesuffix(REMEDY)
            raise LogError(f"{line}restore it from a copy, or give another -o") from error


def _standing(where: Place, run_id: str) -> Standing:
    attempts = load_attempts(where)
    if not attempts:
        return Standing()
    if len(attempts) > 1:
        raise LogError(
            f"{where.name}: has {len(attempts)} attempts, where rescore makes one; give another -o"
        )
    manifest = pick_up(where, run_id)
    done = manifest.steps.get("fixed", [])
    steps = {step for entry in manifest.shards for step in entry.steps if _fixed(entry.path)}
    open_steps = frozenset(steps - set(done))
    return Standing(
        manifest,
        attempts[0].columns,
        published_sequences(where, manifest, "fixed", open_steps),
        published_sequences(where, manifest, "alternatives", open_steps),
        published_sequences(where, manifest, "contexts"),
        _all_of(published_sequences(where, manifest, "sequences")),
    )


def _all_of(by_step: dict[int, Array]) -> Array:
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *by_step.values()]))


def _fixed(path: str) -> bool:
    return path.startswith("fixed/")
