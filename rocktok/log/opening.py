"""Opening a log: what is there, whose it is, and what is missing."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import rocktok.schema as schema
from rocktok.errors import DamagedError, LogError
from rocktok.files import place
from rocktok.log import run as runs
from rocktok.log.catalogue import Log, Skipped
from rocktok.log.manifest import load_attempts, load_manifest
from rocktok.log.reader import OneRun, Reader
from rocktok.log.shard import REMEDY, Shard

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from rocktok.files import Place
    from rocktok.log.manifest import Manifest
    from rocktok.log.shard import ShardEntry

Shards = dict[str, tuple[Shard, ...]]

#: Shared filesystems show new files late: how long a listed shard may be absent, in seconds.
MISSING_WAIT = 60.0


def open_log(
    path: str | os.PathLike[str],
    *,
    allow_missing: bool = False,
    attempt: int | None = None,
    notice: Callable[[str], None] | None = None,
) -> Log:
    """Open a log: a local directory, or any address that pyarrow or fsspec open.

    Args:
        path: the log's directory.
        allow_missing: go on without shards that are damaged or gone (they are counted in every
            output). Every shard is then verified first.
        attempt: read the log as this attempt left it, without later ones; None: the latest.
        notice: told when the reader waits for a file; default: a warning through logging.

    Raises:
        LogError: no such directory, no shards, a newer version, two runs in one directory, no such
            attempt.
        DamagedError: a listed shard is gone, or a manifest is damaged.
    """
    where = place(path)
    with where.asking():
        return _open(where, allow_missing, attempt, notice or _to_log)


def _open(
    where: Place, allow_missing: bool, attempt: int | None, notice: Callable[[str], None]
) -> Log:
    if not where.is_directory():
        raise LogError(f"{where.name}: no such directory; give the directory of a log")
    run = runs.load_run(where)
    manifests = tuple(
        load_manifest(where, path) for path, _ in where.files("manifest") if path.endswith(".json")
    )
    attempts = tuple(load_attempts(where))
    if attempt is not None:
        _refuse_unknown(where, attempt, [a.attempt for a in attempts])
    one_run = OneRun((run or {}).get("run_id"), where.show(runs.PATH))
    for manifest in manifests:
        one_run.check(manifest.run_id, where.show(manifest.path))
    shards, skipped = _find_shards(where, manifests, allow_missing, notice)
    if not any(shards[table] for table in schema.OCCURRENCE_TABLES):
        raise LogError(
            f"{where.name}: no shards in rollout/ or fixed/; it is no log, or nothing has been "
            "recorded yet"
        )
    rules = runs.rules_of(run, where.show(runs.PATH))
    reader = Reader(where, rules, attempts, one_run)
    if attempt is not None:
        reader = replace(reader, attempts=tuple(a for a in attempts if a.attempt <= attempt))
        manifests = tuple(m for m in manifests if m.attempt <= attempt)
        shards = _up_to(reader, shards, attempt)
        if not any(shards[table] for table in schema.OCCURRENCE_TABLES):
            raise LogError(
                f"{where.name}: no shards in rollout/ or fixed/ up to attempt {attempt}; give a "
                "later --attempt"
            )
    if allow_missing:
        shards, damaged = _leave_out_damaged(reader, shards)
        skipped += damaged
    later = len(attempts) - len(reader.attempts)
    return Log(reader, run, manifests, shards, allow_missing, tuple(skipped), later)


def _to_log(line: str) -> None:
    logging.getLogger("rocktok").warning(line)


def _find_shards(
    where: Place,
    manifests: tuple[Manifest, ...],
    allow_missing: bool,
    notice: Callable[[str], None],
) -> tuple[Shards, list[Skipped]]:
    """The shards of every table, and those that are listed but gone."""
    listed = {e.path: (e, m.attempt) for m in manifests for e in m.shards}
    present = _present(where)
    missing = sorted(set(listed) - set(present))
    if missing and not allow_missing:
        notice(f"{where.show(missing[0])}: listed but absent; waiting up to {MISSING_WAIT:g} s")
        deadline = time.monotonic() + MISSING_WAIT
        while missing and time.monotonic() < deadline:
            time.sleep(min(1.0, MISSING_WAIT))
            present = _present(where)
            missing = sorted(set(listed) - set(present))
        if missing:
            raise DamagedError(
                f"{where.show(missing[0])}: is listed in a manifest, but is gone; {REMEDY}"
            )
    by_table: dict[str, list[Shard]] = {table: [] for table in schema.TABLES}
    for path, size in present.items():
        entry, attempt = listed.get(path, (None, None))
        by_table[_table_of(path)].append(Shard(path, size, entry, attempt))
    shards = {table: tuple(of_table) for table, of_table in by_table.items()}
    return shards, [_skipped(where, path, listed[path][0], "gone") for path in missing]


def _refuse_unknown(where: Place, attempt: int, known: list[int]) -> None:
    if attempt not in known:
        there = f"there are {', '.join(map(str, known))}" if known else "there are none"
        raise LogError(f"{where.name}: no attempt {attempt}; {there}")


def _up_to(reader: Reader, shards: Shards, attempt: int) -> Shards:
    """Without the shards of later attempts."""

    def wrote(shard: Shard) -> int:
        number = shard.attempt if shard.entry is not None else reader.open(shard).attempt
        return -1 if number is None else number

    return {
        table: tuple(shard for shard in of_table if wrote(shard) <= attempt)
        for table, of_table in shards.items()
    }


def _present(where: Place) -> dict[str, int]:
    return {
        path: size
        for table in schema.TABLES
        for path, size in where.files(table)
        if path.endswith(".parquet")
    }


def _table_of(path: str) -> str:
    return path.split("/", 1)[0]


def _skipped(where: Place, path: str, entry: ShardEntry | None, reason: str) -> Skipped:
    steps = () if entry is None else tuple(entry.steps)
    return Skipped(where.show(path), reason, _table_of(path), steps)


def _leave_out_damaged(reader: Reader, shards: Shards) -> tuple[Shards, list[Skipped]]:
    """The shards that are whole, and those that are not."""
    whole: dict[str, list[Shard]] = {table: [] for table in shards}
    damaged = []
    for table, of_table in shards.items():
        for shard in of_table:
            try:
                _verify(reader, shard)
            except DamagedError as error:
                reason = str(error).removeprefix(f"{reader.place.show(shard.path)}: ")
                reason = reason.removesuffix(f"; {REMEDY}")
                damaged.append(_skipped(reader.place, shard.path, shard.entry, reason))
            else:
                whole[table].append(shard)
    return {table: tuple(of_table) for table, of_table in whole.items()}, damaged


def _verify(reader: Reader, shard: Shard) -> None:
    """Decode every page of a shard. Raises `DamagedError`."""
    opened = reader.open(shard)
    for group, _ in opened.groups():
        opened.read_group(group, opened.columns)
