"""Going on where an earlier process stopped, within the same attempt.

That is for a writer which repeats nothing that it has published. A training job that starts again
does: it begins a new attempt.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import rocktok.schema as schema
from rocktok.errors import LogError
from rocktok.log.encoding import entry_of
from rocktok.log.manifest import Manifest, load_manifest, shard_prefix
from rocktok.log.shard import Shard, ShardEntry, open_shard
from rocktok.temporary import clear_below, lock

if TYPE_CHECKING:
    import numpy.typing as npt

    from rocktok._types import Array
    from rocktok.files import Place

LOCK = ".writer.lock"


def pick_up(where: Place, run_id: str, *, rank: int = 0, attempt: int = 0) -> Manifest:
    """What a rank has published in an attempt: its manifest, and shards that came after it.

    A process that dies between a shard and the manifest leaves a whole shard that nothing lists.
    It is read through, and taken into the manifest that is returned; no file is changed.

    Raises `DamagedError` for a damaged manifest or shard, `LogError` for another run's.
    """
    manifest = Manifest(run_id=run_id, rank=rank, attempt=attempt)
    if where.exists(manifest.path):
        manifest = load_manifest(where, manifest.path)
        if manifest.run_id != run_id:
            raise LogError(
                f"{where.show(manifest.path)}: is of run {manifest.run_id}, run.json of {run_id}; "
                "keep each run in its own directory"
            )
    listed = {entry.path for entry in manifest.shards}
    prefix = shard_prefix(rank, attempt)
    for table in schema.TABLES:
        for path, size in where.files(table, ".parquet"):
            if path not in listed and path.rsplit("/", 1)[-1].startswith(prefix):
                manifest.shards.append(_adopted(where, path, size, run_id))
    return manifest


def _adopted(where: Place, path: str, size: int, run_id: str) -> ShardEntry:
    opened = open_shard(where, Shard(path, size), ("step",))
    if opened.run_id != run_id:
        raise LogError(
            f"{opened.name}: belongs to run {opened.run_id}, but run.json is of run {run_id}; "
            "keep each run in its own directory"
        )
    # All columns: a page that is damaged must not be vouched for.
    parts = [opened.read_group(g, opened.columns)["step"] for g, _ in opened.groups()]
    return entry_of(path, where.read(path), np.concatenate([np.asarray(part) for part in parts]))


def published_sequences(
    where: Place, manifest: Manifest, table: str, steps: frozenset[int] | None = None
) -> dict[int, npt.NDArray[np.int64]]:
    """Step → ascending ids of the sequences in a manifest's shards of a table.

    `steps`: only these. Raises `DamagedError`.
    """
    by_step: dict[int, list[Array]] = {}
    for entry in manifest.shards:
        wanted = set(entry.steps) if steps is None else set(entry.steps) & steps
        if not entry.path.startswith(f"{table}/") or not wanted:
            continue
        opened = open_shard(where, Shard(entry.path, entry.size, entry, manifest.attempt))
        for group, _ in opened.groups():
            rows = opened.read_group(group, ["step", "sequence_id"])
            step_N, sequence_N = (np.asarray(rows[name]) for name in ("step", "sequence_id"))
            for step in wanted & set(np.unique(step_N).tolist()):
                by_step.setdefault(step, []).append(np.unique(sequence_N[step_N == step]))
    return {step: np.unique(np.concatenate(parts)) for step, parts in by_step.items()}


@contextmanager
def only_writer(where: Place) -> Iterator[None]:
    """Hold a log against other processes that do the same; made if it is not there.

    Files that a killed process had not finished are removed.

    The lock is the system's own, on a file that readers ignore: a process that is killed leaves
    none behind. Object stores, and filesystems without locks, keep nobody out.

    Raises `LogError` if another process holds it.
    """
    if not where.is_local:
        yield
        return
    path = Path(where.join(LOCK))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path, where.name)
    try:
        clear_below(path.parent)
        yield
    finally:
        # While it is held, so that nobody can have locked what is removed.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path, name: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not lock(descriptor):
            os.close(descriptor)
            raise LogError(
                f"{name}: another process is writing it; wait until it has ended, or give "
                "another directory"
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        # The one who held it has just removed the file: the lock is on nothing.
        os.close(descriptor)
