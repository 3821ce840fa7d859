"""Opening a log: what is there, whose it is, and what is missing."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from rocktok import schema
from rocktok.errors import DamagedError, LogError
from rocktok.files import place
from rocktok.log import run as runs
from rocktok.log.manifest import load_attempts, load_manifest
from rocktok.log.reader import Log
from rocktok.log.shard import REMEDY, Shard

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from rocktok.files import Place
    from rocktok.log.shard import ShardEntry

#: Shared filesystems show new files late: how long a listed shard may be absent, in seconds.
MISSING_WAIT = 60.0


def open_log(
    path: str | os.PathLike[str],
    *,
    allow_missing: bool = False,
    notice: Callable[[str], None] | None = None,
) -> Log:
    """Open a log: a local directory, or any address that pyarrow or fsspec open.

    Args:
        path: the log's directory.
        allow_missing: go on without shards that are damaged or gone (they are counted in every
            output). Every shard is then verified first.
        notice: told when the reader waits for a file; default: a warning through logging.

    Raises:
        LogError: no such directory, no shards, a newer version, two runs in one directory.
        DamagedError: a listed shard is gone, or a manifest is damaged.
    """
    where = place(path)
    with where.asking():
        return _open(where, allow_missing, notice or _to_log)


def _open(where: Place, allow_missing: bool, notice: Callable[[str], None]) -> Log:
    if not where.is_directory():
        raise LogError(f"{where.name}: no such directory; give the directory of a log")
    run = runs.load_run(where)
    manifests = [load_manifest(where, p) for p, _ in where.files("manifest") if p.endswith(".json")]
    log = Log(where, run, load_attempts(where), manifests, allow_missing)
    _check_one_run(log)
    log.all_shards = _find_shards(log, notice)
    if not any(log.shards(table) for table in schema.OCCURRENCE_TABLES):
        raise LogError(
            f"{where.name}: no shards in rollout/ or fixed/; it is no log, or nothing has been "
            "recorded yet"
        )
    if allow_missing:
        _leave_out_damaged(log)
    return log


def _to_log(line: str) -> None:
    logging.getLogger("rocktok").warning(line)


def _check_one_run(log: Log) -> None:
    for manifest in log.manifests:
        log.check_run(manifest.run_id, log.place.show(manifest.path))


def _find_shards(log: Log, notice: Callable[[str], None]) -> dict[str, list[Shard]]:
    listed = {e.path: (e, m.attempt) for m in log.manifests for e in m.shards}
    present = _present(log.place)
    missing = sorted(set(listed) - set(present))
    if missing and not log.allow_missing:
        notice(f"{log.place.show(missing[0])}: listed but absent; waiting up to {MISSING_WAIT:g} s")
        deadline = time.monotonic() + MISSING_WAIT
        while missing and time.monotonic() < deadline:
            time.sleep(min(1.0, MISSING_WAIT))
            present = _present(log.place)
            missing = sorted(set(listed) - set(present))
    for path in missing:
        if not log.allow_missing:
            raise DamagedError(
                f"{log.place.show(path)}: is listed in a manifest, but is gone; {REMEDY}"
            )
        _skip(log, path, listed[path][0], "gone")
    found: dict[str, list[Shard]] = {table: [] for table in schema.TABLES}
    for path, size in present.items():
        entry, attempt = listed.get(path, (None, None))
        found[path.split("/", 1)[0]].append(Shard(path, size, entry, attempt))
    return found


def _present(where: Place) -> dict[str, int]:
    return {
        path: size
        for table in schema.TABLES
        for path, size in where.files(table)
        if path.endswith(".parquet")
    }


def _skip(log: Log, path: str, entry: ShardEntry | None, reason: str) -> None:
    log.skipped.append((log.place.show(path), reason))
    table = path.split("/", 1)[0]
    log.skipped_steps |= {(table, step) for step in (entry.steps if entry is not None else ())}


def _leave_out_damaged(log: Log) -> None:
    for table in schema.TABLES:
        good = []
        for shard in log.shards(table):
            try:
                verify_shard(log, shard)
            except DamagedError as error:
                reason = str(error).removeprefix(f"{log.place.show(shard.path)}: ")
                _skip(log, shard.path, shard.entry, reason.removesuffix(f"; {REMEDY}"))
            else:
                good.append(shard)
        log.all_shards[table] = good


def verify_shard(log: Log, shard: Shard) -> None:
    """Decode every page of a shard. Raises `DamagedError`."""
    opened = log.open(shard)
    for group, _ in opened.groups():
        opened.read_group(group, opened.columns)
