"""Opening a log: what is there, whose it is, and what is missing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import rocktok.schema as schema
from rocktok.errors import DamagedError, LogError
from rocktok.files import place
from rocktok.log import run as runs
from rocktok.log import vocab as vocabs
from rocktok.log.catalogue import Log, Skipped
from rocktok.log.chunks import REMEDY
from rocktok.log.manifest import Attempt, load_attempts, load_manifests
from rocktok.log.reader import OneRun, Reader
from rocktok.log.shard import Shard
from rocktok.log.vocab import Vocab

if TYPE_CHECKING:
    import os

    from rocktok.files import Place
    from rocktok.folders import Entry
    from rocktok.log.manifest import FileSeal, Manifest
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
    manifests = tuple(load_manifests(where))
    waiting = _Waiting(where, notice)
    _check_there(waiting, manifests)
    run = runs.load_run(where)
    attempts = tuple(load_attempts(where))
    if attempt is not None:
        _refuse_unknown(where, attempt, [a.attempt for a in attempts])
    one_run = OneRun((run or {}).get("run_id"), where.show(runs.PATH))
    for manifest in manifests:
        one_run.check(manifest.run_id, where.show(manifest.path))
    shards, skipped = _find_shards(waiting, manifests, allow_missing)
    if not any(shards[table] for table in schema.OCCURRENCE_TABLES):
        raise LogError(
            f"{where.name}: no shards in rollout/ or fixed/; it is not a log, or nothing has "
            "been recorded yet"
        )
    rules = runs.rules_of(run, where.show(runs.PATH))
    by_hand = run is None and not manifests
    writers = None if by_hand else frozenset((m.rank, m.attempt) for m in manifests)
    reader = Reader(where, rules, attempts, one_run, writers)
    seal = _vocab_seal(where, manifests)
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
        skipped += damaged + _damaged_vocab(where, seal)
    later = len(attempts) - len(reader.attempts)
    return Log(reader, run, manifests, shards, allow_missing, tuple(skipped), seal, later)


@dataclass
class _Waiting:
    """Waits for files that must be there, a minute for all of them together."""

    where: Place
    notice: Callable[[str], None]
    deadline: float | None = None

    def until_there(self, absent: Callable[[], Sequence[str]]) -> Sequence[str]:
        """The paths that are absent still when the time is over."""
        paths = absent()
        if paths and self.deadline is None:
            self.deadline = time.monotonic() + MISSING_WAIT
            name = self.where.show(paths[0])
            self.notice(f"{name}: listed but absent; waiting up to {MISSING_WAIT:g} s")
        while paths and time.monotonic() < (self.deadline or 0.0):
            time.sleep(min(1.0, MISSING_WAIT))
            paths = absent()
        return paths


def _check_there(waiting: _Waiting, manifests: Sequence[Manifest]) -> None:
    """Raise `DamagedError` where a file is gone that must have been there before a manifest."""
    where = waiting.where

    def absent() -> list[str]:
        there = {attempt.attempt for attempt in load_attempts(where)}
        last = max([*there, *(m.attempt for m in manifests)], default=-1)
        gone = [Attempt(n, 0, 0).path for n in range(last + 1) if n not in there]
        if (there or manifests) and not where.exists(runs.PATH):
            gone.append(runs.PATH)
        return gone

    gone = waiting.until_there(absent)
    if gone:
        raise DamagedError(
            f"{where.show(gone[0])}: is missing, although later files exist; restore it from a copy"
        )


def _vocab_seal(where: Place, manifests: Sequence[Manifest]) -> FileSeal | None:
    """What the manifests say of vocab.parquet. Raises `DamagedError` if they disagree."""
    seals = {m.vocab for m in manifests if m.vocab is not None}
    if len(seals) > 1:
        raise DamagedError(
            f"{where.show(vocabs.PATH)}: was replaced between two attempts: their manifests list "
            "different files; keep each run in its own directory"
        )
    return next(iter(seals), None)


def _damaged_vocab(where: Place, seal: FileSeal | None) -> list[Skipped]:
    try:
        Vocab.load(where, seal)
    except LogError as error:
        reason = str(error).removeprefix(f"{where.show(vocabs.PATH)}: ").partition(";")[0]
        return [Skipped(where.show(vocabs.PATH), reason, "vocab", ())]
    return []


def _to_log(line: str) -> None:
    logging.getLogger("rocktok").warning(line)


def _find_shards(
    waiting: _Waiting, manifests: tuple[Manifest, ...], allow_missing: bool
) -> tuple[Shards, list[Skipped]]:
    """The shards of every table, and those that are listed but gone, or are no files."""
    where = waiting.where
    listed = {e.path: (e, m.attempt) for m in manifests for e in m.shards}
    present = _present(where)

    def absent() -> list[str]:
        nonlocal present
        missing = sorted(listed.keys() - present.keys())
        if missing:
            present = _present(where)
        return sorted(listed.keys() - present.keys())

    if allow_missing:
        missing = sorted(listed.keys() - present.keys())
    elif missing := list(waiting.until_there(absent)):
        raise DamagedError(
            f"{where.show(missing[0])}: is listed in a manifest but missing; {REMEDY}"
        )
    by_table: dict[str, list[Shard]] = {table: [] for table in schema.TABLES}
    skipped = [_skipped(where, path, listed[path][0], "gone") for path in missing]
    for path, found in present.items():
        entry, attempt = listed.get(path, (None, None))
        if found.problem is None:
            # Of a million shards each name is held once.
            name = path if entry is None else entry.path
            by_table[_table_of(path)].append(Shard(name, found.size, entry, attempt))
        elif allow_missing:
            skipped.append(_skipped(where, path, entry, found.problem))
        else:
            raise DamagedError(
                f"{where.show(path)}: {found.problem}, where a shard must be; {REMEDY}"
            )
    shards = {table: tuple(of_table) for table, of_table in by_table.items()}
    return shards, skipped


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


def _present(where: Place) -> dict[str, Entry]:
    return {
        entry.path: entry for table in schema.TABLES for entry in where.entries(table, ".parquet")
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
