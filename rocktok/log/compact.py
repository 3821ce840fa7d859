"""Many small shards into few ordered ones: the same rows, by step, streamed.

Superseded rows are left behind, and attempts and ranks become one. What a manifest says of
dropped steps and mismatches is carried over, and a step that was incomplete stays so.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

import rocktok.schema as schema
from rocktok.errors import LogError, UsageError
from rocktok.files import Place, place, resolved
from rocktok.log import run as runs
from rocktok.log import vocab as vocabs
from rocktok.log.catalogue import Log
from rocktok.log.checks import numpy_view
from rocktok.log.encoding import ROW_GROUP_NUMBERS, encode_shard, entry_of, row_numbers
from rocktok.log.manifest import Attempt, FileSeal, Manifest, dump_json
from rocktok.log.opening import open_log
from rocktok.log.ordered import ordered_rows
from rocktok.log.shard import ShardEntry, sequence_starts
from rocktok.temporary import temporary_directory

if TYPE_CHECKING:
    from collections.abc import Callable

#: Rows of a full shard: two full row groups. (Of `alternatives` fewer: as many as their lists.)
SHARD_ROWS = 1 << 21


@dataclass
class _Sink:
    """Collects rows of one table and publishes shards as they fill."""

    where: Place
    table: str
    run_id: str
    entries: list[ShardEntry] = field(default_factory=list)
    publishing: str | None = None
    _parts: list[pa.Table] = field(default_factory=list)
    _rows: int = 0
    _numbers: int = 0
    _target: int = 0

    def add(self, rows: pa.Table) -> None:
        """Add whole sequences that follow those before."""
        numbers = row_numbers(rows) if self.table in schema.BESIDE_FIXED else 0
        if numbers != self._numbers:
            self.publish()  # the lists of a shard are equally long
            self._numbers = numbers
        self._target = min(SHARD_ROWS, 2 * ROW_GROUP_NUMBERS // max(1, numbers)) or 1
        self._parts.append(rows)
        self._rows += rows.num_rows
        while self._rows > self._target and (cut := self._last_bound()):
            rows = pa.concat_tables(self._parts)
            self._parts, self._rows = [rows.slice(0, cut)], cut
            self.publish()
            self._parts, self._rows = [rows.slice(cut)], rows.num_rows - cut

    def _last_bound(self) -> int:
        """The rows that a full shard takes: where it ends depends on the rows alone.

        So a compact log that is compacted again has the same shards. 0: all rows so far are of one
        sequence, which may go on.
        """
        rows = pa.concat_tables(self._parts)
        if "position" not in rows.schema.names:
            return self._target
        step_N, sequence_N = (np.asarray(rows[name]) for name in ("step", "sequence_id"))
        start_S = sequence_starts(step_N, sequence_N)
        within_S = start_S[(start_S > 0) & (start_S <= self._target)]
        longer_S = start_S[start_S > self._target]
        return int(within_S[-1] if len(within_S) else longer_S[0] if len(longer_S) else 0)

    def publish(self) -> None:
        """Write what was collected as one shard."""
        if not self._rows:
            return
        rows = pa.concat_tables(self._parts).combine_chunks()
        self._parts, self._rows = [], 0
        step_N = numpy_view(rows["step"].chunk(0))
        name = f"rank-00000-00-{len(self.entries):05d}.parquet"
        folder = self.table
        if self.table != "sequences":
            folder += f"/step-{int(step_N[0]):08d}"
        data = encode_shard(rows, run_id=self.run_id, attempt=0)
        entry = entry_of(f"{folder}/{name}", data, step_N)
        self.publishing = self.where.create(entry.path, data)
        self.entries.append(entry)


def compact(
    log: Log | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a log's rows to another directory, in full shards; returns the shards written.

    A local output appears whole or not at all.

    Args:
        log: an open log, or what `rocktok.open` takes.
        output: a new directory, outside the log.
        progress: told of (rows done, all rows).

    Raises:
        UsageError: the output exists, or is the log itself or inside it.
        LogError: the log is damaged, or the output cannot be written.
    """
    source = log if isinstance(log, Log) else open_log(log)
    target = place(output)
    _refuse(source, target)
    if not target.is_local:
        return _write(source, target, progress)
    final = _followed(target)
    try:
        with temporary_directory(final) as temporary:
            written = _write(source, place(temporary), progress)
            temporary.rename(final)
    except OSError as error:
        raise LogError(f"{target.name}: cannot be written ({error.strerror or error})") from error
    return written


def _refuse(log: Log, target: Place) -> None:
    if target.is_local and log.place.is_local:
        inside, source = _followed(target), _followed(log.place)
        if inside == source or source in inside.parents:
            raise UsageError(f"{target.name}: lies inside the log that is read; write elsewhere")
    if target.exists():
        raise UsageError(f"{target.name}: exists already; give a new directory")


def _followed(place: Place) -> Path:
    try:
        return resolved(place.path)
    except OSError as error:
        raise LogError(f"{place.name}: cannot be written ({error.strerror})") from error


def _write(log: Log, target: Place, progress: Callable[[int, int], None] | None) -> int:
    run_id = log.run_id or runs.new_run_id()
    ended = all(m.final for m in log.manifests if m.attempt == log.manifests[-1].attempt)
    manifest = Manifest(run_id=run_id, rank=0, attempt=0, final=ended)
    total = sum(step.rows for t in schema.OCCURRENCE_TABLES for step in log.steps(t))
    done = 0
    for table in log.tables():
        sink = _Sink(target, table, run_id)
        for rows in ordered_rows(log, table):
            sink.add(rows)
            if table == "gradients":
                # Vectors are large, and a step of them is read at once.
                sink.publish()
            done += rows.num_rows if table in schema.OCCURRENCE_TABLES else 0
            if progress is not None:
                progress(done, total)
        sink.publish()
        manifest.shards += sink.entries
        manifest.publishing = sink.publishing
    _describe(log, target, run_id, manifest)
    return len(manifest.shards)


def _describe(log: Log, target: Place, run_id: str, manifest: Manifest) -> None:
    """run.json, vocabulary, one attempt, and last the manifest that vouches for the shards."""
    for table in schema.STEP_TABLES:
        if table not in schema.OCCURRENCE_TABLES and table not in log.tables():
            continue
        manifest.steps[table] = log.complete_steps(table)
    manifest.dropped = [drop for m in log.manifests for drop in m.dropped]
    manifest.weights = next((w for _, w in reversed(log.weights)), None)
    for other in log.manifests:
        for step, n in other.mismatches.items():
            manifest.mismatches[step] = manifest.mismatches.get(step, 0) + n
    target.create(runs.PATH, dump_json({**(log.run or {}), "run_id": run_id}))
    if len(log.vocab):
        data = log.place.read(vocabs.PATH)
        target.create(vocabs.PATH, data)
        manifest.vocab = FileSeal.of(data)
    last = log.attempts[-1] if log.attempts else Attempt(0, 0, 1)
    attempt = Attempt(0, 0, 1, last.columns, last.fingerprint)
    target.create(attempt.path, attempt.encode())
    target.create(manifest.path, manifest.encode())
