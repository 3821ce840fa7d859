"""The reader: how shards are opened, and their rows read as checked arrays of whole sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import rocktok.schema as schema
from rocktok.errors import DamagedError, LogError
from rocktok.log.checks import (
    ListCheck,
    OrderCheck,
    Rules,
    SequenceRuns,
    Where,
    check_values,
    to_numpy,
)
from rocktok.log.chunks import REMEDY
from rocktok.log.manifest import manifest_path
from rocktok.log.selection import EVERYWHERE, KEY, Selection, Span
from rocktok.log.shard import OpenShard, Shard, open_shard
from rocktok.log.whole import WholeSequences
from rocktok.runs import run_starts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from rocktok._types import Array
    from rocktok.files import Place
    from rocktok.log.manifest import Attempt


@dataclass(frozen=True)
class ShardRows:
    """Rows of whole sequences, in order, from the shard `name`: equally long columns.

    Of `alternatives` ids and probabilities are matrices, (N, k) int32 and float32; the context of
    `contexts` is one of bytes, (N, 32) uint8.
    """

    columns: dict[str, Array]
    name: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


@dataclass
class OneRun:
    """The run that every file of a log must be of, and the file that says so.

    `run_id` is None where run.json names no run: the first file that names one then decides.
    """

    run_id: str | None
    said_by: str

    def check(self, run_id: str, name: str) -> None:
        """Raise `LogError` if a file is of another run."""
        if self.run_id is None:
            self.run_id, self.said_by = run_id, name
        elif run_id != self.run_id:
            raise LogError(
                f"{name}: belongs to run {run_id}, but {self.said_by} is of run {self.run_id}; "
                "keep each run in its own directory"
            )


@dataclass(frozen=True, eq=False)
class Reader:
    """Opens and reads the shards of one log; small, so that it can go to a worker with each task.

    Attributes:
        place: where the log is.
        rules: what values the log promises.
        attempts: starts of the training job, in order.
        one_run: refuses files of other runs.
        writers: (rank, attempt) of every manifest; None in a directory that has none, and no
            run.json: its shards are read as if written by hand.
    """

    place: Place
    rules: Rules
    attempts: tuple[Attempt, ...]
    one_run: OneRun
    writers: frozenset[tuple[int, int]] | None = None

    def limit_of(self, attempt: int | None) -> int | None:
        """Rows of an attempt count only at steps below this; None: all of them do."""
        if attempt is None:
            return None
        later = [a.resume_step for a in self.attempts if a.attempt > attempt]
        return min(later, default=None)

    def open(self, shard: Shard, required: Sequence[str] = ()) -> OpenShard:
        """Open a shard and check that it belongs to this run, and that its writer is known.

        Raises `DamagedError` also for a shard whose rank has no manifest: writers of its version
        make that before any shard.
        """
        opened = open_shard(self.place, shard, required)
        if opened.run_id is not None:
            self.one_run.check(opened.run_id, opened.name)
        if shard.entry is None and self.writers is not None:
            self._check_writer(opened)
        return opened

    def _check_writer(self, opened: OpenShard) -> None:
        rank, attempt = opened.rank, opened.attempt
        if opened.version < schema.SEALED_VERSION or rank is None or attempt is None:
            return
        if (rank, attempt) in (self.writers or ()):
            return
        path = manifest_path(rank, attempt)
        if self.place.exists(path):
            raise LogError(
                f"{opened.name}: is of attempt {attempt}, which began while the log was opened; "
                "run the command again"
            )
        raise DamagedError(
            f"{self.place.show(path)}: is missing, and {opened.name} is of its rank and attempt; "
            f"{REMEDY}"
        )

    def count_steps(self, shard: Shard) -> dict[int, int]:
        """Rows of each step in a shard, counted in its step column."""
        counts: dict[int, int] = {}
        opened = self.open(shard, ("step",))
        for group, _ in opened.groups():
            where = Where(opened.name, group)
            step_N = to_numpy(opened.read_group(group, ["step"])["step"], "step", where)
            check_values({"step": step_N}, self.rules, where)
            # Runs first: a shard is sorted by step, or is refused where its other keys are read.
            start_R = run_starts(step_N)
            step_R, rows_R = step_N[start_R], np.diff(start_R, append=len(step_N))
            for step in np.unique(step_R).tolist():
                counts[step] = counts.get(step, 0) + int(rows_R[step_R == step].sum())
        return counts

    def scan(
        self,
        shards: Iterable[Shard],
        columns: Sequence[str],
        steps: Collection[int] | None = None,
    ) -> Iterator[ShardRows]:
        """Checked rows of whole sequences of all shards of a table, superseded ones left out.

        Args:
            shards: those of the table, in order.
            columns: what to read; step, sequence_id and position come with them.
            steps: only these steps.

        Raises `DamagedError` or `DataError` naming file, row group, row and column.
        """
        check = SequenceRuns()
        wanted = tuple(dict.fromkeys((*KEY, *columns)))
        for shard in shards:
            yield from self.scan_shard(shard, wanted, steps, check)
        check.check()

    def scan_shard(
        self,
        shard: Shard,
        columns: Sequence[str],
        steps: Collection[int] | None = None,
        check: SequenceRuns | None = None,
        span: Span = EVERYWHERE,
        superseded: bool = False,
    ) -> Iterator[ShardRows]:
        """As `scan`, for one shard, with no other columns than those asked for.

        `check` collects what finds duplicates between shards, where sequence_id is read. `span`:
        only sequences in this range of ids. `superseded`: those rows, too. A hand-written shard is
        read with its keys whatever is asked, and its order checked; of one that a manifest
        vouches for that is checked where the keys are asked for.
        """
        entry = shard.entry
        if entry is not None and steps is not None and not set(entry.steps) & set(steps):
            return
        with_keys = tuple(dict.fromkeys((*KEY, *columns)))
        wanted = with_keys if entry is None else tuple(columns)
        opened = self.open(shard, with_keys)
        select = Selection(steps, None if superseded else self.limit_of(opened.attempt), span)
        read = self._read_whole if entry is None else self._read_trusted
        for rows in read(opened, wanted, select):
            if check is not None and {"step", "sequence_id"} <= set(rows):
                check.add(opened.name, rows["step"], rows["sequence_id"])
            yield ShardRows(rows, opened.name)

    def _read_trusted(
        self, opened: OpenShard, wanted: Sequence[str], select: Selection
    ) -> Iterator[dict[str, Array]]:
        """Rows of a shard of our writer, which never breaks a sequence over row groups."""
        order, lists = OrderCheck(), ListCheck()
        for group, _ in opened.groups():
            plan = select.plan(opened, group)
            if plan is None:
                continue
            columns = (*wanted, *(c for c in plan if c not in wanted))
            for where, rows in self._read(opened, group, columns):
                if set(KEY) <= set(rows):
                    order.check(rows["step"], rows["sequence_id"], rows["position"], where)
                lists.check(rows, where)
                kept = select.keep(rows, plan)
                if len(kept[wanted[0]]):
                    yield {name: kept[name] for name in wanted}

    def _read_whole(
        self, opened: OpenShard, wanted: Sequence[str], select: Selection
    ) -> Iterator[dict[str, Array]]:
        """Rows of a hand-written shard, with their keys: whole sequences in order."""
        order, lists, whole = OrderCheck(), ListCheck(), WholeSequences()
        for group, _ in opened.groups():
            for where, rows in self._read(opened, group, wanted):
                if not len(rows["step"]):
                    continue
                order.check(rows["step"], rows["sequence_id"], rows["position"], where)
                lists.check(rows, where)
                yield from whole.add(select.keep_ordered(rows))
        yield from whole.rest()

    def _read(
        self, opened: OpenShard, group: int, wanted: Sequence[str]
    ) -> Iterator[tuple[Where, dict[str, Array]]]:
        """Checked rows of a row group: in pieces if sequences need not be whole.

        A step that all rows have in common, as most row groups do, is one value in memory.
        """
        more = "step" in wanted and len(wanted) > 1
        step = opened.read_constant(group, "step") if more else None
        constants = {} if step is None else {"step": step}
        stored = [name for name in wanted if name not in constants]
        pieces = (
            [opened.read_group(group, stored)]
            if "sequence_id" in wanted
            else opened.stream_group(group, stored)
        )
        first = 0
        for piece in pieces:
            where = Where(opened.name, group, first)
            rows = {name: to_numpy(piece[name], name, where) for name in stored}
            check_values(rows, self.rules, where)
            for name, value in constants.items():
                one = np.full(1, value, dtype=np.int32)
                check_values({name: one}, self.rules, where)
                rows[name] = np.broadcast_to(one, piece.num_rows)
            yield where, rows
            first += piece.num_rows
