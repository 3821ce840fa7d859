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
from rocktok.log.batches import as_table
from rocktok.log.buffers import Buffer, ContextIds, IdRuns, StepKeys
from rocktok.log.checks import ListCheck, numpy_view
from rocktok.log.encoding import encode_shard, entry_of
from rocktok.log.manifest import Dropped, FileSeal, Manifest, remove_strays, shard_prefix
from rocktok.log.reserve import Reserve

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from rocktok.log.manifest import WeightsInForce
    from rocktok.log.shard import ShardEntry

#: Tables with rows of positions.
_POSITIONS = (*schema.OCCURRENCE_TABLES, *schema.BESIDE_FIXED)
_ORDER = {
    **dict.fromkeys(_POSITIONS, ("step", "sequence_id", "position")),
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
        fingerprint: settings of the models, by name: an attempt with others is refused.
        supersede: start at step 0 over a finished run, whose rows are then no longer read.
        flush_bytes, flush_seconds: buffered rows are published at the end of a step once they
            are that many bytes or that old.

    Raises:
        HookError: the directory holds another run, a finished one, or one of other models,
            another tokenizer or other columns.
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
        fingerprint: Mapping[str, Any] | None = None,
        supersede: bool = False,
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
        texts = None if vocab is None else vocabs.encode_vocab(vocab)
        if attempt is None or run_id is None:
            if rank != 0:
                raise HookError("only rank 0 starts an attempt; give the others its attempt")
            if texts is not None:
                vocabs.refuse_others(self.place, texts)
            runs.run_facts(run, self.place.show(runs.PATH))
            run_id = runs.start_run(self.place, dict(run or {}))
            attempt = runs.start_attempt(
                self.place,
                resume_step=resume_step,
                world_size=world_size,
                columns=self.columns,
                fingerprint=runs.fingerprint_of(run or {}, fingerprint or {}),
                supersede=supersede,
            )
        if texts is not None and not self.place.exists(vocabs.PATH):
            self.place.replace(vocabs.PATH, texts)
        self.run_id, self.attempt, self.rank = run_id, attempt, rank
        self._rules = runs.rules_of(runs.load_run(self.place), self.place.show(runs.PATH))
        self._resume_step = resume_step
        self._flush_bytes, self._flush_seconds = flush_bytes, flush_seconds
        self._manifest = manifest or Manifest(run_id=run_id, rank=rank, attempt=attempt)
        self._manifest.final = False
        self._buffers = {table: Buffer() for table in schema.TABLES}
        self._keys: dict[str, StepKeys] = {}
        self._sequences = IdRuns()
        self._contexts = ContextIds()
        self._lists = ListCheck()
        self._open: dict[str, int] = {}
        self._newest: dict[str, int] = {}
        self._finished: dict[str, set[int]] = {
            table: set(self._manifest.steps.get(table, ())) for table in schema.STEP_TABLES
        }
        self._given_up = {(dropped.table, dropped.step) for dropped in self._manifest.dropped}
        self._numbers = {table: self._manifest.next_number(table) for table in schema.TABLES}
        self._last_flush = time.monotonic()
        self._manifest_stale = True
        self._reserve = Reserve(self.place, f"manifest/.rank-{rank:05d}.reserve")
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

    @property
    def manifest(self) -> Manifest:
        """What this rank has published and given up; of use once nothing writes any more."""
        return self._manifest

    @property
    def is_saved(self) -> bool:
        """Whether the manifest on disk says all that this one does."""
        return not self._manifest_stale

    def write(self, batch: Mapping[str, Any] | Any, table: str = "rollout") -> None:
        """Add rows: a mapping of arrays (scalars are repeated) or a DataFrame.

        `rollout` and `fixed` take step, sequence_id, position, token_id, loss and the columns
        the writer was opened with; the other tables take their own (see docs/log-format.md;
        lists of numbers may be an array of two dimensions, contexts one of uint8). Rows of
        one sequence at one step may come in several calls, in any order; a batch of another
        step finishes the one before. `alternatives` and `contexts` may be written at some steps
        only, at positions of `fixed` there, and the contexts of a text once.

        Raises `DataError` for missing or unknown columns, wrong types, nulls, unequal lengths,
        token ids outside the vocabulary, steps that descend, and what has been written before.
        """
        rows = as_table(batch, table, self.columns, self._rules, self._lists)
        if rows.num_rows == 0:
            return
        if table == "sequences":
            self._add_sequences(rows)
            return
        step_N = numpy_view(rows["step"].combine_chunks())
        steps = np.unique(step_N).tolist()
        for step in steps:
            self._check_step(table, step)
        for step in steps:
            self._enter_step(table, step)
            part = rows if len(steps) == 1 else rows.filter(pa.array(step_N == step))
            if table == "contexts":
                self._contexts.add(step, numpy_view(part["sequence_id"].combine_chunks()))
            if table in _POSITIONS:
                self._keys.setdefault(table, StepKeys(table, step)).add(part)
            self._buffers[table].add(step, part)

    def _add_sequences(self, rows: pa.Table) -> None:
        id_S, count_S = np.unique(np.asarray(rows["sequence_id"]), return_counts=True)
        again_S = (count_S > 1) | self._sequences.holds(id_S)
        if again_S.any():
            raise DataError(
                f"sequences: sequence {id_S[np.argmax(again_S)]} comes twice; write the row of a "
                "sequence once, also where its text is scored at several steps"
            )
        self._sequences.add(id_S)
        step = rows["step"][0].as_py()
        self._buffers["sequences"].add(step, rows)

    def _check_step(self, table: str, step: int) -> None:
        if step in self._finished[table]:
            raise DataError(f"{table}: step {step} was finished; no rows may be added to it")
        if (table, step) in self._given_up:
            raise DataError(f"{table}: step {step} was dropped; no rows may be added to it")
        if step < self._resume_step:
            raise DataError(
                f"{table}: step {step} comes before step {self._resume_step}, from which this "
                "attempt starts; give the writer the right resume_step"
            )
        if step < self._newest.get(table, step):
            raise DataError(
                f"{table}: step {step} comes after step {self._newest[table]}; write steps in "
                "ascending order"
            )

    def _enter_step(self, table: str, step: int) -> None:
        previous = self._open.get(table)
        if previous is not None and previous != step:
            self.finish_step(previous, table)
        self._open[table] = self._newest[table] = step

    def _leave_step(self, table: str, step: int) -> None:
        if self._open.get(table) == step:
            del self._open[table]
            self._keys.pop(table, None)

    def finish_step(self, step: int, table: str = "rollout") -> None:
        """This rank has written all that it has for the step (perhaps nothing)."""
        self._leave_step(table, step)
        if (table, step) in self._given_up:
            return
        self._finished[table].add(step)
        self._manifest_stale = True
        buffered = sum(buffer.bytes for buffer in self._buffers.values())
        old = time.monotonic() - self._last_flush >= self._flush_seconds
        if buffered >= self._flush_bytes or (old and buffered):
            self.flush()

    def drop_step(self, step: int, rows: int, reason: str, table: str = "rollout") -> None:
        """Give a step up, which the log counts as incomplete.

        Args:
            step, table: what is given up; what is buffered of it goes, unless it was finished:
                then what it had stays. With a step of `fixed` go its alternatives and contexts.
            rows: how many rows the log lacks for it.
            reason: why.
        """
        if step not in self._finished[table]:
            if table == "fixed":
                self._drop_beside(step, reason)
            elif table in schema.BESIDE_FIXED and self._is_dropped(table, step):
                return  # it went with the step of `fixed`, and is counted
            self._forget(table, step)
        self._give_up(Dropped(table, step, rows, reason))

    def _drop_beside(self, step: int, reason: str) -> None:
        """Give up what is about positions that are given up."""
        for table in schema.BESIDE_FIXED:
            held = self._buffers[table].rows(step)
            self._forget(table, step)
            self._finished[table].discard(step)
            self._given_up.add((table, step))
            if held:
                self._give_up(Dropped(table, step, held, reason))

    def _is_dropped(self, table: str, step: int) -> bool:
        return any((d.table, d.step) == (table, step) for d in self._manifest.dropped)

    def _forget(self, table: str, step: int) -> None:
        self._leave_step(table, step)
        self._buffers[table].drop(step)
        if table == "contexts":
            self._contexts.drop(step)

    def _give_up(self, dropped: Dropped) -> None:
        if dropped.table in self._finished:
            self._finished[dropped.table].discard(dropped.step)
            self._given_up.add((dropped.table, dropped.step))
        self._manifest.dropped.append(dropped)
        self._manifest_stale = True

    def add_mismatch(self, step: int, n: int = 1) -> None:
        """Count calls whose recorded loss was not what the trainer returned."""
        mismatches = self._manifest.mismatches
        mismatches[step] = mismatches.get(step, 0) + n
        self._manifest_stale = True

    def note_weights(self, weights: WeightsInForce) -> None:
        """Say, from the next flush on, which weights the trained loss has."""
        self._manifest.weights = weights
        self._manifest_stale = True

    def drop_buffered(self, reason: str, *, sequences: bool = False) -> int:
        """Give up every buffered step, counted in the log; returns the rows lost.

        `sequences`: those rows too, which are small and describe text that later steps may score.
        """
        lost = 0
        for table in (*schema.STEP_TABLES, *(("sequences",) if sequences else ())):
            for step, count in sorted(self._buffers[table].clear().items()):
                self._forget(table, step)
                self._give_up(Dropped(table, step, count, reason))
                lost += count
        return lost

    def flush(self, *, whole: bool = False) -> None:
        """Publish all steps but an unfinished one, then the manifest.

        `whole`: the unfinished one, too; every sequence written of it so far must be whole, as no
        sequence may straddle two shards.

        Raises `OSError` if the disk fails; what was not published stays buffered.
        """
        for table in ("sequences", *schema.STEP_TABLES):
            unfinished = () if whole else self._unfinished(table)
            parts = self._buffers[table].parts(unfinished)
            if parts:
                entry = self._publish(table, pa.concat_tables(parts, promote_options="default"))
                self._buffers[table].clear(unfinished)
                self._manifest.shards.append(entry)
                self._manifest_stale = True
            if whole and table in self._keys:
                self._keys[table].published()
        self._last_flush = time.monotonic()
        if self._manifest_stale:
            self._write_manifest()

    def _unfinished(self, table: str) -> set[int]:
        """Steps that a flush leaves out: no row beside `fixed` may come before its own."""
        tables = (table, "fixed") if table in schema.BESIDE_FIXED else (table,)
        return {self._open[name] for name in tables if name in self._open}

    def close(self, final: bool = True) -> None:
        """Flush, and with `final` mark this rank as done."""
        for table, step in list(self._open.items()):
            if final:
                self.finish_step(step, table)
        self._open.clear()
        self._manifest.final = final
        self._manifest_stale = True
        self.flush()
        self._reserve.remove()

    def _write_manifest(self) -> None:
        self._manifest.steps = {
            table: sorted(steps)
            for table, steps in self._finished.items()
            if steps or table in schema.OCCURRENCE_TABLES
        }
        data = self._manifest.encode()
        try:
            self.place.replace(self._manifest.path, data)
        except OSError as error:
            if not self._reserve.release(error):
                raise
            self.place.replace(self._manifest.path, data)
        self._manifest_stale = False
        self._reserve.renew(len(data))

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
