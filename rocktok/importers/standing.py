"""What a stopped import has left in its output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.errors import UsageError
from rocktok.log.manifest import load_attempts
from rocktok.log.resume import pick_up, published_sequences
from rocktok.log.run import load_run

if TYPE_CHECKING:
    from rocktok._types import Array
    from rocktok.files import Place
    from rocktok.log.manifest import Manifest

#: Where run.json keeps what was imported.
KEY = "import"


@dataclass(frozen=True)
class Standing:
    """What stands; nothing in a new output.

    Attributes:
        manifest: of the one attempt.
        run_id: of the log.
        columns: optional statistics that it has.
        steps: that are finished.
        sequences: step that is not finished → ids that stand at it.
        listed: ids in sequences/, ascending.
        rows: rows of all steps.
    """

    manifest: Manifest | None = None
    run_id: str | None = None
    columns: tuple[str, ...] = ()
    steps: frozenset[int] = frozenset()
    sequences: dict[int, Array] = field(default_factory=dict)
    listed: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    rows: int = 0


def standing(where: Place, identity: dict[str, Any], table: str) -> Standing:
    """What an earlier start of the same import has written.

    Raises `UsageError` for an output that holds anything else, or that is complete.
    """
    if not where.exists() or _is_empty(where):
        return Standing()
    taken = f"{where.name}: exists already"
    run = load_run(where)
    earlier = ((run or {}).get("extra") or {}).get(KEY)
    if run is None or not isinstance(earlier, dict):
        raise UsageError(f"{taken}, and is no import; give another output")
    if earlier != identity:
        changed = [key for key in identity if earlier.get(key) != identity[key]]
        raise UsageError(
            f"{taken}, an import with other {' and '.join(changed) or 'settings'}; give another "
            "output"
        )
    attempts = load_attempts(where)
    run_id = str(run.get("run_id", ""))
    if len(attempts) != 1:
        raise UsageError(f"{taken}, with {len(attempts)} attempts; give another output")
    manifest = pick_up(where, run_id)
    if manifest.final:
        raise UsageError(f"{taken}, and is complete; give another output")
    finished = frozenset(manifest.steps.get(table, ()))
    mine = [entry for entry in manifest.shards if entry.path.startswith(f"{table}/")]
    unfinished = frozenset(step for entry in mine for step in entry.steps) - finished
    listed = published_sequences(where, manifest, "sequences").values()
    return Standing(
        manifest,
        run_id,
        attempts[0].columns or (),
        finished,
        published_sequences(where, manifest, table, unfinished),
        np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *listed])),
        sum(entry.rows for entry in mine),
    )


def _is_empty(where: Place) -> bool:
    from pyarrow.fs import FileSelector

    if not where.is_directory():
        return False
    return not where.filesystem.get_file_info(FileSelector(where.path))
