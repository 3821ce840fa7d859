"""The reader: what is in a log, and its rows as checked batches of whole sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rocktok import schema
from rocktok._types import LogIdentity
from rocktok._version import __version__
from rocktok.errors import LogError
from rocktok.log import run as runs
from rocktok.log.checks import OrderCheck, Rules, SequenceRuns, Where, check_values, to_numpy
from rocktok.log.selection import EVERYWHERE, KEY, Selection, Span
from rocktok.log.shard import OpenShard, Shard, open_shard, sequence_starts
from rocktok.log.vocab import Vocab

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import numpy.typing as npt

    from rocktok.files import Place
    from rocktok.log.manifest import Attempt, Manifest

    Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Rows of whole sequences, in order, from one shard. `columns` are equally long arrays."""

    columns: dict[str, Array]
    name: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True)
class Step:
    """One step of a table: its rows, and whether every rank has published all it had."""

    step: int
    rows: int
    complete: bool


@dataclass
class Log:
    """An open log. Make one with `rocktok.open`; reading is lazy, and checks what it reads.

    Attributes:
        place: where it is.
        run: run.json, or None for a hand-written log.
        attempts: starts of the training job, in order.
        manifests: what each rank has published.
        skipped: (file, reason) of shards left out under `allow_missing`.
    """

    place: Place
    run: dict[str, Any] | None
    attempts: list[Attempt]
    manifests: list[Manifest]
    allow_missing: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)
    seen_run: tuple[str, str] | None = None
    skipped_steps: set[tuple[str, int]] = field(default_factory=set)
    all_shards: dict[str, list[Shard]] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The log as the user named it."""
        return self.place.name

    @property
    def run_id(self) -> str | None:
        """Identity of the run, None for a hand-written log."""
        return None if self.run is None else self.run.get("run_id")

    @cached_property
    def rules(self) -> Rules:
        """What values this log promises. Raises `LogError` for an unknown exactness."""
        return runs.rules_of(self.run, self.place.show(runs.PATH))

    @cached_property
    def vocab(self) -> Vocab:
        """Text of the token ids."""
        return Vocab.load(self.place)

    def tables(self) -> tuple[str, ...]:
        """Names of the tables that have shards."""
        return tuple(t for t in schema.TABLES if self.all_shards.get(t))

    def shards(self, table: str) -> list[Shard]:
        """Shards of a table, in the order in which they are read."""
        return self.all_shards.get(table, [])

    def identity(self) -> LogIdentity:
        """What traces a result back to this log, for every JSON output."""
        loss = (self.run or {}).get("loss") or {}
        return {
            "path": self.name,
            "run_id": self.run_id,
            "exactness": self.rules.exactness,
            "trained_loss": loss.get("trained"),
            "vocab": self.vocab.identity,
            "vocab_size": (self.run or {}).get("vocab_size"),
            "shards": {table: len(self.shards(table)) for table in self.tables()},
            "skipped_shards": len(self.skipped),
            "versions": {
                "rocktok": __version__,
                "numpy": np.__version__,
                "pyarrow": pa.__version__,
            },
        }

    def warnings(self) -> list[str]:
        """What a reader of any result must know of this log, one line each."""
        lines = [
            f"rank {m.rank} of attempt {m.attempt} has no final mark: it may still be writing, "
            "or was killed"
            for m in self._owning_manifests()
            if not m.final
        ]
        if self.attempts:
            there = {m.rank for m in self._owning_manifests()}
            gone = sorted(set(range(self.attempts[-1].world_size)) - there)
            lines += [f"rank {r} of the last attempt has published nothing" for r in gone]
        lines += [f"{path}: left out: {reason}" for path, reason in self.skipped]
        if "sequences" not in self.tables():
            lines.append("no sequences/ table: each sequence counts as its own prompt")
        return lines

    def _owning_manifests(self) -> list[Manifest]:
        last = self.attempts[-1].attempt if self.attempts else 0
        return [m for m in self.manifests if m.attempt == last]

    # -- steps -----------------------------------------------------------------------------

    def limit_of(self, attempt: int | None) -> int | None:
        """Rows of an attempt count only at steps below this; None: all of them do."""
        if attempt is None:
            return None
        later = [a.resume_step for a in self.attempts if a.attempt > attempt]
        return min(later, default=None)

    def steps(self, table: str) -> list[Step]:
        """The steps of a table in ascending order, superseded rows left out."""
        return self._steps[table]

    @cached_property
    def _steps(self) -> dict[str, list[Step]]:
        return {
            table: [
                Step(step, sum(rows for _, rows in held), self.is_complete(table, step))
                for step, held in sorted(self._holders[table].items())
            ]
            for table in schema.STEP_TABLES
        }

    def holders(self, table: str, step: int) -> list[tuple[Shard, int]]:
        """The shards that hold rows of a step, and how many; superseded rows left out."""
        return self._holders[table].get(step, [])

    @cached_property
    def _holders(self) -> dict[str, dict[int, list[tuple[Shard, int]]]]:
        found: dict[str, dict[int, list[tuple[Shard, int]]]] = {}
        for table in schema.STEP_TABLES:
            by_step: dict[int, list[tuple[Shard, int]]] = {}
            for shard in self.shards(table):
                limit = self.limit_of(self.attempt_of(shard))
                for step, rows in self.rows_by_step(shard).items():
                    if limit is None or step < limit:
                        by_step.setdefault(step, []).append((shard, rows))
            found[table] = by_step
        return found

    def complete_steps(self, table: str) -> list[int]:
        """Steps that every rank has finished: the ones that defaults and curves use."""
        return [s.step for s in self.steps(table) if s.complete]

    def incomplete_steps(self, table: str) -> list[int]:
        """Steps dropped or unfinished on some rank."""
        seen = {s.step for s in self.steps(table)}
        seen |= {step for of_table, step in self.skipped_steps if of_table == table}
        for manifest in self.manifests:
            limit = self.limit_of(manifest.attempt)
            steps = {d.step for d in manifest.dropped if d.table == table}
            steps |= set(manifest.steps.get(table, []))
            seen |= {step for step in steps if limit is None or step < limit}
        return sorted(step for step in seen if not self.is_complete(table, step))

    def is_complete(self, table: str, step: int) -> bool:
        """Whether every rank of the attempt that owns the step has published it."""
        if (table, step) in self.skipped_steps:
            return False
        owners = [a for a in self.attempts if a.resume_step <= step]
        if not owners:
            return True
        owner = owners[-1]
        done = {
            m.rank
            for m in self.manifests
            if m.attempt == owner.attempt and step in self._published(m)[table]
        }
        return done >= set(range(owner.world_size))

    def _published(self, manifest: Manifest) -> dict[str, set[int]]:
        return self._published_steps[(manifest.rank, manifest.attempt)]

    @cached_property
    def _published_steps(self) -> dict[tuple[int, int], dict[str, set[int]]]:
        return {
            (m.rank, m.attempt): {t: set(m.steps.get(t, [])) for t in schema.STEP_TABLES}
            for m in self.manifests
        }

    def attempt_of(self, shard: Shard) -> int | None:
        """The attempt that wrote a shard; None for a hand-written one."""
        return shard.attempt if shard.entry is not None else self.open(shard).attempt

    def rows_by_step(self, shard: Shard) -> dict[int, int]:
        """Rows of each step in a shard: from its manifest, or else from its step column."""
        if shard.entry is not None:
            return shard.entry.steps
        counts: dict[int, int] = {}
        opened = self.open(shard, ("step",))
        for group, _ in opened.groups():
            where = Where(opened.name, group)
            step_N = to_numpy(opened.read_group(group, ["step"])["step"], "step", where)
            check_values({"step": step_N}, self.rules, where)
            for step, count in zip(*np.unique(step_N, return_counts=True), strict=True):
                counts[int(step)] = counts.get(int(step), 0) + int(count)
        return counts

    # -- rows ------------------------------------------------------------------------------

    def open(self, shard: Shard, required: Sequence[str] = ()) -> OpenShard:
        """Open a shard and check that it belongs to this run."""
        opened = open_shard(self.place, shard, required)
        if opened.run_id is not None:
            self.check_run(opened.run_id, opened.name)
        return opened

    def check_run(self, run_id: str, name: str) -> None:
        """Raise `LogError` if a file is of another run than run.json, or than files before it."""
        known = self.run_id
        other = self.place.show(runs.PATH)
        if known is None:
            known, other = self.seen_run or (run_id, name)
            self.seen_run = (known, other)
        if run_id != known:
            raise LogError(
                f"{name}: belongs to run {run_id}, but {other} is of run {known}; keep each run "
                "in its own directory"
            )

    def columns(self, table: str) -> list[str]:
        """Columns that every shard of the table has, in canonical order."""
        shards = self.shards(table)
        if not shards:
            return []
        common = set(self.open(shards[0]).columns)
        for shard in shards[1:]:
            # Shards that a manifest vouches for come from one writer, which holds this rule.
            if shard.entry is None or shards[0].entry is None:
                common &= set(self.open(shard).columns)
        return [c.name for c in schema.columns_of(table) if c.name in common]

    def scan(
        self, table: str, columns: Sequence[str], steps: Collection[int] | None = None
    ) -> Iterator[Batch]:
        """Checked rows of whole sequences, shard by shard, superseded ones left out.

        Args:
            table: "rollout" or "fixed".
            columns: what to read; step, sequence_id and position come with them.
            steps: only these steps.

        Raises `DamagedError` or `DataError` naming file, row group, row and column.
        """
        check = SequenceRuns()
        wanted = tuple(dict.fromkeys((*KEY, *columns)))
        for shard in self.shards(table):
            yield from self.scan_shard(table, shard, wanted, steps, check)
        check.check()

    def scan_shard(
        self,
        table: str,
        shard: Shard,
        columns: Sequence[str],
        steps: Collection[int] | None = None,
        check: SequenceRuns | None = None,
        span: Span = EVERYWHERE,
        superseded: bool = False,
    ) -> Iterator[Batch]:
        """As `scan`, for one shard, with no other columns than those asked for.

        `check` collects what finds duplicates between shards, where sequence_id is read. `span`:
        only sequences in this range of ids. `superseded`: those rows, too. A hand-written shard is
        read with its keys whatever is asked, and its order checked; of one that a manifest
        vouches for that is checked where the keys are asked for.
        """
        known = shard.entry.steps if shard.entry is not None else None
        if known is not None and steps is not None and not set(known) & set(steps):
            return
        wanted = tuple(columns) if known is not None else tuple(dict.fromkeys((*KEY, *columns)))
        opened = self.open(shard, tuple(dict.fromkeys((*KEY, *columns))))
        select = Selection(steps, None if superseded else self.limit_of(opened.attempt), span)
        read = self._read_whole if known is None else self._read_trusted
        for rows in read(opened, wanted, select):
            yield self._batch(rows, opened.name, check)

    def _read_trusted(
        self, opened: OpenShard, wanted: Sequence[str], select: Selection
    ) -> Iterator[dict[str, Array]]:
        """Rows of a shard of our writer, which never breaks a sequence over row groups."""
        order = OrderCheck()
        for group, _ in opened.groups():
            plan = select.plan(opened, group)
            if plan is None:
                continue
            columns = (*wanted, *(c for c in plan if c not in wanted))
            for where, rows in self._read(opened, group, columns):
                if set(KEY) <= set(rows):
                    order.check(rows["step"], rows["sequence_id"], rows["position"], where)
                kept = select.keep(rows, plan)
                if len(kept[wanted[0]]):
                    yield {name: kept[name] for name in wanted}

    def _read_whole(
        self, opened: OpenShard, wanted: Sequence[str], select: Selection
    ) -> Iterator[dict[str, Array]]:
        """Rows of a hand-written shard, with their keys: whole sequences in order."""
        order, carry = OrderCheck(), None
        for group, _ in opened.groups():
            for where, rows in self._read(opened, group, wanted):
                order.check(rows["step"], rows["sequence_id"], rows["position"], where)
                rows = select.keep(rows, KEY)
                if carry is not None:
                    rows = {name: np.concatenate((carry[name], rows[name])) for name in rows}
                # The last sequence of a row group may go on in the next one.
                cut = _last_start(rows)
                carry = {name: values[cut:] for name, values in rows.items()}
                if cut:
                    yield {name: values[:cut] for name, values in rows.items()}
        if carry is not None and len(carry["step"]):
            yield carry

    def _batch(self, rows: dict[str, Array], name: str, check: SequenceRuns | None) -> Batch:
        if check is not None and {"step", "sequence_id"} <= set(rows):
            check.add(name, rows["step"], rows["sequence_id"])
        return Batch(rows, name)

    def _read(
        self, opened: OpenShard, group: int, wanted: Sequence[str]
    ) -> Iterator[tuple[Where, dict[str, Array]]]:
        """Checked rows of a row group: in pieces if sequences need not be whole."""
        pieces = (
            [opened.read_group(group, wanted)]
            if "sequence_id" in wanted
            else opened.stream_group(group, wanted)
        )
        first = 0
        for piece in pieces:
            where = Where(opened.name, group, first)
            rows = {name: to_numpy(piece[name], name, where) for name in wanted}
            check_values(rows, self.rules, where)
            yield where, rows
            first += piece.num_rows


def _last_start(rows: dict[str, Array]) -> int:
    starts = sequence_starts(rows["step"], rows["sequence_id"])
    return int(starts[-1]) if len(starts) else 0
