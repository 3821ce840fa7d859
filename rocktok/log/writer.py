"""The writer: batches of sequences in, whole shards out.

One `LogWriter` is one rank in one attempt. Rows are buffered until a flush, sorted, and published
as shards that appear whole; the manifest is rewritten after them, so that what it lists exists.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import rocktok.schema as schema
from rocktok.errors import DataError, HookError
from rocktok.files import place
from rocktok.log import run as runs
from rocktok.log import vocab as vocabs
from rocktok.log.manifest import Dropped, FileSeal, Manifest, remove_strays, shard_prefix
from rocktok.log.shard import encode_shard, entry_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from rocktok.log.shard import ShardEntry

_ORDER = {
    **dict.fromkeys(schema.OCCURRENCE_TABLES, ("step", "sequence_id", "position")),
    "sequences": ("step", "sequence_id"),
    "gradients": ("step", "half", "token_id"),
}


class LogWriter:
    """Writes one rank's part of a log, for trainers that the hooks do not know.

    Example: a log of one step, from arrays or from a DataFrame with the same columns::

        with LogWriter("runs/mine", run={"vocab_size": 32000}) as writer:
            writer.write({"sequence_id": [0], "step": [0], "num_tokens": [2],
                          "prompt_id": ["p0"]}, table="sequences")
            writer.write({"step": 0, "sequence_id": [0, 0], "position": [0, 1],
                          "token_id": [17, 4], "loss": [0.2, 1.3]})

    Args:
        path: the log's directory (created if absent) or an address that pyarrow or fsspec open.
        columns: optional columns of `rollout` and `fixed` that this run records; every batch
            must have them.
        rank, world_size: this process among those that write the log.
        resume_step: optimizer steps already done when this attempt starts.
        attempt, run_id: None on rank 0, which starts the attempt; the other ranks are given rank
            0's.
        manifest: what an earlier process published as this rank in this attempt, where this one
            goes on with it (see `pick_up`).
        run: what goes into run.json (student, teacher, vocab_size, loss, sampling, every, extra).
        vocab: (token_id, text, bytes) rows for vocab.parquet.
        flush_bytes, flush_seconds: buffered rows are published at the end of a step once they
            are that many bytes or that old.

    Raises:
        HookError: the directory holds another run, or records other columns.
        OSError: the disk failed. What was buffered stays buffered: `flush` again, or give it up
            with `drop_buffered`.

    Not thread-safe.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Iterable[str] = (),
        rank: int = 0,
        world_size: int = 1,
        resume_step: int = 0,
        attempt: int | None = None,
        run_id: str | None = None,
        manifest: Manifest | None = None,
        run: Mapping[str, Any] | None = None,
        vocab: Iterable[tuple[int, str, bytes]] | None = None,
        flush_bytes: int = 64 << 20,
        flush_seconds: float = 600.0,
    ) -> None:
        self.place = place(path)
        self.columns = tuple(c for c in schema.OPTIONAL_STATISTICS if c in set(columns))
        unknown = set(columns) - set(self.columns)
        if unknown:
            raise HookError(
                f"no columns {', '.join(sorted(unknown))} in the format; "
                f"choose from {', '.join(schema.OPTIONAL_STATISTICS)}"
            )
        if attempt is None or run_id is None:
            if rank != 0:
                raise HookError("only rank 0 starts an attempt; give the others its attempt")
            run_id = runs.start_run(self.place, dict(run or {}))
            attempt = runs.start_attempt(
                self.place, resume_step=resume_step, world_size=world_size, columns=self.columns
            )
        if vocab is not None and not self.place.exists(vocabs.PATH):
            self.place.replace(vocabs.PATH, vocabs.encode_vocab(vocab))
        self.run_id, self.attempt, self.rank = run_id, attempt, rank
        self._flush_bytes, self._flush_seconds = flush_bytes, flush_seconds
        self._manifest = manifest or Manifest(run_id=run_id, rank=rank, attempt=attempt)
        self._manifest.final = False
        self._buffers: dict[str, list[pa.Table]] = {table: [] for table in schema.TABLES}
        self._open: dict[str, int] = {}
        self._finished: dict[str, set[int]] = {
            table: set(self._manifest.steps.get(table, ())) for table in schema.STEP_TABLES
        }
        self._given_up = {(dropped.table, dropped.step) for dropped in self._manifest.dropped}
        self._numbers = {table: self._manifest.next_number(table) for table in schema.TABLES}
        self._last_flush = time.monotonic()
        self._begin()

    def _begin(self) -> None:
        """The manifest stands before the first shard: one that is gone is noticed."""
        manifest = self._manifest
        remove_strays(self.place, manifest)
        if self.rank == 0 and manifest.vocab is None and self.place.exists(vocabs.PATH):
            manifest.vocab = FileSeal.of(self.place.read(vocabs.PATH))
        self._write_manifest()

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.close(final=kind is None)

    def write(self, batch: Mapping[str, Any] | Any, table: str = "rollout") -> None:
        """Add rows: a mapping of arrays (scalars are repeated) or a DataFrame.

        `rollout` and `fixed` take step, sequence_id, position, token_id, loss and the columns
        the writer was opened with; `sequences` and `gradients` take their own (see
        docs/log-format.md; `vector` may be an array of two dimensions). Rows of
        one sequence at one step may come in several calls, in any order; a batch of another
        step finishes the one before.

        Raises `DataError` for missing or unknown columns, wrong types, nulls, unequal lengths.
        """
        rows = self._table(batch, table)
        if rows.num_rows == 0:
            return
        if table == "sequences":
            self._buffers[table].append(rows)
            return
        step_N = np.asarray(rows["step"])
        steps = np.unique(step_N).tolist()
        for step in steps:
            if step in self._finished[table]:
                raise DataError(f"{table}: step {step} was finished; no rows may be added to it")
        for step in steps:
            self._enter_step(table, step)
            part = rows if len(steps) == 1 else rows.filter(pa.array(step_N == step))
            self._buffers[table].append(part)

    def _enter_step(self, table: str, step: int) -> None:
        previous = self._open.get(table)
        if previous is not None and previous != step:
            self.finish_step(previous, table)
        self._open[table] = step

    def finish_step(self, step: int, table: str = "rollout") -> None:
        """This rank has written all that it has for the step (perhaps nothing)."""
        if self._open.get(table) == step:
            del self._open[table]
        if (table, step) in self._given_up:
            return
        self._finished[table].add(step)
        self._manifest_stale = True
        buffered = sum(t.nbytes for tables in self._buffers.values() for t in tables)
        old = time.monotonic() - self._last_flush >= self._flush_seconds
        if buffered >= self._flush_bytes or (old and buffered):
            self.flush()

    def drop_step(self, step: int, rows: int, reason: str, table: str = "rollout") -> None:
        """Give a step up: what is buffered of it goes, and the loss is counted in the log."""
        self._buffers[table] = [p for p in self._buffers[table] if not _has_step(p, step)]
        self._give_up(Dropped(table, step, rows, reason))

    def _give_up(self, dropped: Dropped) -> None:
        self._finished[dropped.table].discard(dropped.step)
        self._given_up.add((dropped.table, dropped.step))
        self._manifest.dropped.append(dropped)
        self._manifest_stale = True

    def add_mismatch(self, step: int, n: int = 1) -> None:
        """Count calls whose recorded loss was not what the trainer returned."""
        mismatches = self._manifest.mismatches
        mismatches[step] = mismatches.get(step, 0) + n
        self._manifest_stale = True

    def drop_buffered(self, reason: str) -> int:
        """Give up every buffered step, counted in the log; returns the rows lost."""
        lost = 0
        for table in schema.STEP_TABLES:
            parts, self._buffers[table] = self._buffers[table], []
            rows: dict[int, int] = {}
            for part in parts:
                step = part["step"][0].as_py()
                rows[step] = rows.get(step, 0) + part.num_rows
            for step, count in sorted(rows.items()):
                self._give_up(Dropped(table, step, count, reason))
                lost += count
        # Sequence rows are small and describe text that later steps may score: they are kept.
        return lost

    def flush(self, *, whole: bool = False) -> None:
        """Publish all steps but an unfinished one, then the manifest.

        `whole`: the unfinished one, too; every sequence written of it so far must be whole, as no
        sequence may straddle two shards.

        Raises `OSError` if the disk fails; what was not published stays buffered.
        """
        for table in ("sequences", *schema.STEP_TABLES):
            unfinished = None if whole else self._open.get(table)
            parts = [
                p
                for p in self._buffers[table]
                if unfinished is None or not _has_step(p, unfinished)
            ]
            if parts:
                entry = self._publish(table, pa.concat_tables(parts, promote_options="default"))
                self._buffers[table] = [
                    p
                    for p in self._buffers[table]
                    if unfinished is not None and _has_step(p, unfinished)
                ]
                self._manifest.shards.append(entry)
                self._manifest_stale = True
        self._last_flush = time.monotonic()
        if self._manifest_stale:
            self._write_manifest()

    def close(self, final: bool = True) -> None:
        """Flush, and with `final` mark this rank as done."""
        for table, step in list(self._open.items()):
            if final:
                self.finish_step(step, table)
        self._open.clear()
        self._manifest.final = final
        self._manifest_stale = True
        self.flush()

    def _write_manifest(self) -> None:
        self._manifest.steps = {
            table: sorted(steps)
            for table, steps in self._finished.items()
            if steps or table in schema.OCCURRENCE_TABLES
        }
        self.place.replace(self._manifest.path, self._manifest.encode())
        self._manifest_stale = False

    def _publish(self, table: str, rows: pa.Table) -> ShardEntry:
        columns = [np.asarray(rows[key]) for key in reversed(_ORDER[table])]
        order = np.lexsort(columns)
        if (np.diff(order) != 1).any():
            rows = rows.take(pa.array(order))
        step_N = np.asarray(rows["step"])
        data = encode_shard(rows, run_id=self.run_id, attempt=self.attempt, rank=self.rank)
        name = f"{shard_prefix(self.rank, self.attempt)}{self._numbers[table]:05d}.parquet"
        folder = table if table == "sequences" else f"{table}/step-{int(step_N[0]):08d}"
        entry = entry_of(f"{folder}/{name}", data, step_N)
        try:
            self._manifest.publishing = self.place.create(entry.path, data)
        except FileExistsError:
            # An earlier try got as far as the name, then failed to make it durable.
            if self.place.read(entry.path) != data:
                raise
        self._numbers[table] += 1
        return entry

    def _table(self, batch: Mapping[str, Any] | Any, table: str) -> pa.Table:
        if table not in schema.TABLES:
            raise DataError(f"no table {table!r}; choose from {', '.join(schema.TABLES)}")
        names = list(batch.keys())
        optional: Iterable[str] = ()
        if table == "sequences":
            optional = [n for n in names if n not in schema.required_names(table)]
        elif table in schema.OCCURRENCE_TABLES:
            optional = self.columns
        try:
            wanted = schema.arrow_schema(table, optional)
        except ValueError as error:
            raise DataError(f"{table}: {error}") from error
        _check_names(names, wanted.names, table)
        values = [batch[name] for name in names]
        length = max((len(v) for v in values if np.ndim(v) or _is_list(v)), default=1)
        arrays = [_arrow(batch[field.name], field, length, table) for field in wanted]
        return pa.Table.from_arrays(arrays, schema=wanted)


def _has_step(part: pa.Table, step: int) -> bool:
    # Every buffered part holds rows of one step.
    return bool(part["step"][0].as_py() == step)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_matrix(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2


def _check_names(names: list[str], wanted: list[str], table: str) -> None:
    missing = [name for name in wanted if name not in names]
    extra = [name for name in names if name not in wanted]
    if missing or extra:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has {', '.join(extra)}, which this log does not record"] if extra else []
        raise DataError(f"{table}: the batch {' and '.join(parts)}")


def _arrow(value: Any, field: Any, length: int, table: str) -> pa.Array:
    """One column as Arrow, cast safely: a value that does not fit is an error, never wrapped."""
    if np.ndim(value) == 0 and not _is_list(value):
        value = [value] * length
    floating = pa.types.is_floating(field.type)
    vectors = pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type)
    try:
        array = _lists(value) if _is_matrix(value) else pa.array(value)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        array = array.cast(field.type, safe=not (floating or vectors))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{table}: column {field.name}: {str(error).splitlines()[0]}") from error
    if len(array) != length:
        raise DataError(f"{table}: column {field.name} has {len(array)} rows, others {length}")
    if array.null_count and not field.nullable:
        raise DataError(f"{table}: column {field.name}: nulls are not allowed")
    numbers = array.flatten() if vectors else array
    if (floating or vectors) and not np.isfinite(np.asarray(numbers)).all():
        raise DataError(f"{table}: column {field.name}: NaN or infinite values")
    return array


def _lists(values_NW: Any) -> pa.Array:
    """The rows of a matrix as lists, not copied."""
    values_NW = np.ascontiguousarray(values_NW)
    rows, width = values_NW.shape
    offsets = np.arange(0, rows * width + 1, width) if width else np.zeros(rows + 1)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values_NW.ravel()))
