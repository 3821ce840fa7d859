"""The catalogue: what is in a log, and what is missing in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import rocktok.schema as schema
from rocktok._types import LogIdentity
from rocktok._version import __version__
from rocktok.errors import printable
from rocktok.log.run import PATH, RunFacts, run_facts
from rocktok.log.vocab import Vocab
from rocktok.words import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from rocktok.files import Place
    from rocktok.log.checks import Rules
    from rocktok.log.manifest import Attempt, FileSeal, Manifest, WeightsInForce
    from rocktok.log.reader import Reader, ShardRows
    from rocktok.log.shard import OpenShard, Shard


@dataclass(frozen=True)
class Step:
    """One step of a table: its rows, and whether every rank has published all it had."""

    step: int
    rows: int
    complete: bool


@dataclass(frozen=True)
class Skipped:
    """A shard left out under `allow_missing`: its file, why, and the steps it had rows of.

    vocab.parquet may be among them, as of the table "vocab".
    """

    name: str
    reason: str
    table: str
    steps: tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Log:
    """An open log. Make one with `rocktok.open`; reading is lazy, and checks what it reads.

    Attributes:
        reader: how its shards are read.
        run: run.json, or None for a hand-written log.
        manifests: what each rank has published.
        shards_by_table: table → its shards, in the order in which they are read.
        allow_missing: whether it was opened without shards that are damaged or gone.
        skipped: these shards.
        vocab_seal: what the manifests say of vocab.parquet, if they do.
        later_attempts: attempts that are left out, for the log is read as an earlier one left it.
    """

    reader: Reader
    run: dict[str, Any] | None
    manifests: tuple[Manifest, ...]
    shards_by_table: Mapping[str, tuple[Shard, ...]]
    allow_missing: bool = False
    skipped: tuple[Skipped, ...] = ()
    vocab_seal: FileSeal | None = None
    later_attempts: int = 0

    def __repr__(self) -> str:
        overview = self._overview()
        width = max((9, *(len(label) for label, _ in overview)))
        lines = [f"  {label:<{width}}  {printable(text)}" for label, text in overview]
        return "\n".join([f"Log {self.name!r}", *lines])

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{a}</th><td>{escape(b)}</td></tr>" for a, b in self._overview())
        return f"<b>Log {escape(self.name)}</b><table>{''.join(rows)}</table>"

    def _overview(self) -> list[tuple[str, str]]:
        """The run, and the size of each table as far as that is to be had without reading it."""
        lines = [] if self.run_id is None else [("run", str(self.run_id))]
        for table in self.tables():
            shards = self.shards(table)
            sizes = [counted(len(shards), "shard")]
            if all(shard.entry is not None for shard in shards):
                holders = self._holders_by_step(table)
                rows = sum(
                    rows for shards_of_step in holders.values() for _, rows in shards_of_step
                )
                sizes.append(counted(rows, "row"))
                if table in schema.STEP_TABLES:
                    sizes.append(counted(len(holders), "step"))
            lines.append((table, ", ".join(sizes)))
        if self.skipped:
            lines.append(("left out", counted(len(self.skipped), "shard")))
        return lines

    @property
    def name(self) -> str:
        """The log as the user named it."""
        return self.place.name

    @property
    def place(self) -> Place:
        """The directory of the log."""
        return self.reader.place

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Starts of the training job, in order."""
        return self.reader.attempts

    @property
    def rules(self) -> Rules:
        """What values this log promises."""
        return self.reader.rules

    @property
    def run_id(self) -> str | None:
        """Identity of the run, None for a hand-written log."""
        return None if self.run is None else self.run.get("run_id")

    @cached_property
    def facts(self) -> RunFacts:
        """Terminal and special tokens, and limits, of the run. Raises `LogError`."""
        return run_facts(self.run, self.place.show(PATH))

    @cached_property
    def vocab(self) -> Vocab:
        """Text of the token ids."""
        if any(file.table == "vocab" for file in self.skipped):
            return Vocab()
        return Vocab.load(self.place, self.vocab_seal)

    @property
    def weights(self) -> tuple[tuple[int, WeightsInForce], ...]:
        """Weights of the trained loss: (attempt, weights) of the attempts that had some."""
        owned = sorted(
            (m for m in self.manifests if m.weights is not None), key=lambda m: m.attempt
        )
        return tuple((m.attempt, m.weights) for m in owned if m.weights is not None)

    def tables(self) -> tuple[str, ...]:
        """Names of the tables that have shards."""
        return tuple(t for t in schema.TABLES if self.shards_by_table.get(t))

    def shards(self, table: str) -> tuple[Shard, ...]:
        """Shards of a table, in the order in which they are read."""
        return self.shards_by_table.get(table, ())

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
        if self.later_attempts:
            later = counted(self.later_attempts, "later attempt")
            lines.append(f"read as attempt {self.attempts[-1].attempt} left it, without {later}")
        lines += self._superseded()
        lines += [f"{shard.name}: left out: {shard.reason}" for shard in self.skipped]
        if "sequences" not in self.tables():
            lines.append("no sequences/ table: each sequence counts as its own prompt")
        return lines

    def _superseded(self) -> list[str]:
        """One line for each attempt of which later ones have taken rows away."""
        lines = []
        for attempt in self.attempts:
            limit = self.limit_of(attempt.attempt)
            if limit is None:
                continue
            steps: set[int] = set()
            rows = 0
            for manifest in (m for m in self.manifests if m.attempt == attempt.attempt):
                for entry in manifest.shards:
                    if entry.path.startswith(schema.OCCURRENCE_TABLES):
                        void = {step: n for step, n in entry.steps.items() if step >= limit}
                        steps |= set(void)
                        rows += sum(void.values())
            if rows:
                number, at = attempt.attempt, counted(len(steps), "step")
                lines.append(
                    f"{counted(rows, 'row')} of attempt {number}, of {at} from {limit} on, not "
                    f"read: superseded by a later attempt (--attempt {number} reads them)"
                )
        return lines

    def _owning_manifests(self) -> list[Manifest]:
        last = self.attempts[-1].attempt if self.attempts else 0
        return [m for m in self.manifests if m.attempt == last]

    # -- steps -----------------------------------------------------------------------------

    def limit_of(self, attempt: int | None) -> int | None:
        """Rows of an attempt count only at steps below this; None: all of them do."""
        return self.reader.limit_of(attempt)

    def steps(self, table: str) -> list[Step]:
        """The steps of a table in ascending order, superseded rows left out."""
        return self._steps[table]

    @cached_property
    def _steps(self) -> dict[str, list[Step]]:
        return {
            table: [
                Step(step, sum(rows for _, rows in holders), self.is_complete(table, step))
                for step, holders in sorted(self._holders[table].items())
            ]
            for table in schema.STEP_TABLES
        }

    def holders(self, table: str, step: int) -> list[tuple[Shard, int]]:
        """The shards that hold rows of a step, and how many; superseded rows left out."""
        return self._holders[table].get(step, [])

    @cached_property
    def _holders(self) -> dict[str, dict[int, list[tuple[Shard, int]]]]:
        return {table: self._holders_by_step(table) for table in schema.STEP_TABLES}

    def _holders_by_step(self, table: str) -> dict[int, list[tuple[Shard, int]]]:
        by_step: dict[int, list[tuple[Shard, int]]] = {}
        for shard in self.shards(table):
            limit = self.limit_of(self.attempt_of(shard))
            for step, rows in self.rows_by_step(shard).items():
                if limit is None or step < limit:
                    by_step.setdefault(step, []).append((shard, rows))
        return by_step

    @cached_property
    def row_groups(self) -> dict[tuple[str, int], Any]:
        """(table, step) → its row groups, as `tasks` has read them, of a few steps."""
        return {}

    def complete_steps(self, table: str) -> list[int]:
        """Steps that every rank has finished: the ones that defaults and curves use."""
        return [s.step for s in self.steps(table) if s.complete]

    def incomplete_steps(self, table: str) -> list[int]:
        """Steps dropped or unfinished on some rank."""
        seen = {s.step for s in self.steps(table)}
        seen |= {step for of_table, step in self._skipped_steps if of_table == table}
        for manifest in self.manifests:
            limit = self.limit_of(manifest.attempt)
            steps = {d.step for d in manifest.dropped if d.table == table}
            steps |= set(manifest.steps.get(table, []))
            seen |= {step for step in steps if limit is None or step < limit}
        return sorted(step for step in seen if not self.is_complete(table, step))

    def is_complete(self, table: str, step: int) -> bool:
        """Whether every rank of the attempt that owns the step has published it."""
        if (table, step) in self._skipped_steps:
            return False
        owners = [a for a in self.attempts if a.resume_step <= step]
        if not owners:
            return True
        owner = owners[-1]
        return self._ranks_done[owner.attempt, table][step] == owner.world_size

    def has_lost(self, table: str, step: int) -> bool:
        """Whether a shard with rows of the step was left out under `allow_missing`."""
        return (table, step) in self._skipped_steps

    @cached_property
    def _skipped_steps(self) -> set[tuple[str, int]]:
        return {(shard.table, step) for shard in self.skipped for step in shard.steps}

    @cached_property
    def _ranks_done(self) -> dict[tuple[int, str], Counter[int]]:
        """(attempt, table) → step → how many of its ranks have published it."""
        sizes = {attempt.attempt: attempt.world_size for attempt in self.attempts}
        done = {(n, table): Counter[int]() for n in sizes for table in schema.STEP_TABLES}
        for manifest in self.manifests:
            if manifest.rank < sizes.get(manifest.attempt, 0):
                for table in schema.STEP_TABLES:
                    steps = set(manifest.steps.get(table, ()))
                    done[manifest.attempt, table].update(steps)
        return done

    def attempt_of(self, shard: Shard) -> int | None:
        """The attempt that wrote a shard; None for a hand-written one."""
        return shard.attempt if shard.entry is not None else self.open(shard).attempt

    def rows_by_step(self, shard: Shard) -> dict[int, int]:
        """Rows of each step in a shard: from its manifest, or else from its step column."""
        return shard.entry.steps if shard.entry is not None else self.reader.count_steps(shard)

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

    # -- rows ------------------------------------------------------------------------------

    def open(self, shard: Shard, required: Sequence[str] = ()) -> OpenShard:
        """Open a shard and check that it belongs to this run."""
        return self.reader.open(shard, required)

    def scan(
        self, table: str, columns: Sequence[str], steps: Collection[int] | None = None
    ) -> Iterator[ShardRows]:
        """Checked rows of a table, as `Reader.scan` reads them."""
        return self.reader.scan(self.shards(table), columns, steps)
