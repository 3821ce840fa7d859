"""Rows of steps on their way into a log: taken in the training thread, handed on whole.

What goes wrong drops whole steps, which the log counts, and is warned of once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rocktok.hooks.background import Background, StepRows, describe
from rocktok.hooks.fixed_set import FixedSet, encode_kept, kept_path
from rocktok.hooks.notices import Warned, say
from rocktok.hooks.pending import PendingSteps
from rocktok.hooks.rollouts import sequence_columns, sequence_ids
from rocktok.hooks.sketching import Sketching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from rocktok.hooks.contexts import Projections
    from rocktok.hooks.gradients import GradientSums
    from rocktok.hooks.rollouts import Rollout


def alone(value: Any) -> list[Any]:
    """The exchange between all ranks where there is one."""
    return [value]


class Recording:
    """Takes rows while an attempt runs; when that is, `rocktok.hooks.recorder.Recorder` decides.

    Attributes:
        columns: statistics beside the loss.
        terminal_ids: of the run, once it has started.
        likeliest: how many of each model's likeliest tokens go with a position of kept text.
        rank, world_size, attempt: of this process, once it has started.
        fixed: the kept text. `sketching`: what contexts it still lacks.
        observer: called with the rows of each step that is whole, before they are handed on.
    """

    def __init__(self, log_dir: str | os.PathLike[str], every: int, quiet: bool) -> None:
        self.log_dir, self.every, self.quiet = log_dir, every, quiet
        self.columns: tuple[str, ...] = ()
        self.terminal_ids: tuple[int, ...] = ()
        self.likeliest = 0
        self.rank, self.world_size, self.attempt = 0, 1, -1
        self.finished_steps = 0
        self.fixed = FixedSet(0, 1)
        self.sketching = Sketching(self.fixed)
        self.observer: Callable[[StepRows], None] | None = None
        self._background: Background | None = None
        self._pending = PendingSteps()
        self._with_domain = False
        self._all_gather: Callable[[Any], Sequence[Any]] = alone
        self._counter = 0
        self._process = os.getpid()
        self._warned = Warned()

    @property
    def running(self) -> bool:
        """Whether rows are taken now, in this process."""
        return self._background is not None and os.getpid() == self._process

    # --- rows ----------------------------------------------------------------------------------

    def wants(self, step: int) -> bool:
        """Whether the rollouts of this step are to be recorded."""
        return self.running and step % self.every == 0

    def new_sequence_ids(self, count: int) -> NDArray[np.int64]:
        """Ids that no other rank or attempt gives; see `sequence_ids`."""
        ids = sequence_ids(self.attempt, self.rank, self._counter, count)
        self._counter += count
        return ids

    def record(
        self,
        step: int,
        columns: Mapping[str, Any],
        *,
        table: str = "rollout",
        rollouts: Sequence[Rollout] = (),
    ) -> None:
        """Add scored tokens of a step.

        Args:
            step: optimizer steps that the scored student has taken.
            columns: arrays of one length (NumPy arrays or tensors): `sequence_id`, `position`,
                `token_id`, `loss` and the recorder's `columns`; for "fixed" also the `student_ids`,
                `student_probs`, `teacher_ids`, `teacher_probs` that `token_statistics` gives, each
                (rows, alternatives), which go to the table "alternatives".
            table: "rollout" for the step's own text, "fixed" for kept text scored again;
                "alternatives" and "contexts" for more about rows of "fixed", with columns as in
                docs/log-format.md. The two are finished with "fixed".
            rollouts: the sequences, where the log does not have them yet.
        """
        self._pending.add(table, step, columns, self.columns, rollouts)

    def open_step(self, step: int, *, table: str) -> None:
        """Say that this rank will finish a step, also if no row comes."""
        self._pending.at(table, step)

    def begin_contexts(self) -> Projections | None:
        """What takes projections of the teacher's hidden states at a scoring of kept text.

        None where none are needed. The same answer on every rank.
        """
        return self.sketching.begin(self.trouble)

    def record_contexts(self, step: int, projections: Projections) -> None:
        """Add the contexts of a step, unless a rank could not record it; the next one tries again.

        Every rank calls this at the same time, before it finishes the step of "fixed".
        """
        pending = self._pending.get(("fixed", step))
        obstacle = projections.fault or (pending.dropped if pending is not None else None)
        if obstacle is None and self._background is not None and not self._background.has_room:
            obstacle = "queue full"
        try:
            rows = self.sketching.finish(projections, obstacle, self._all_gather)
        except Exception as error:
            self.drop(step, describe(error), table="contexts")
        else:
            if rows is not None:
                self.record(step, rows, table="contexts")

    def record_gradients(self, step: int, sums: GradientSums) -> None:
        """Add the sums of gradients that this rank has made at a step of the kept texts."""
        pending = self._pending.at("gradients", step)
        try:
            pending.add_sums(step, sums.columns())
        except Exception as error:
            pending.drop(describe(error))

    def drop(self, step: int, reason: str, *, table: str = "rollout", rows: int = 0) -> None:
        """Give a step up: whatever of it was or will be recorded is left out, and counted."""
        self._pending.at(table, step).drop(reason, rows)

    def mismatch(self, step: int, message: str) -> None:
        """Count a call whose recorded loss was not what the trainer returned; warn of the first."""
        if self.running and self._background is not None:
            self._background.mismatch(step)
        self._warn("mismatch", message)

    def finish_step(self, step: int, *, table: str = "rollout") -> None:
        """All rows of the step are here (perhaps none): hand them to the writer thread."""
        pending, beside = self._pending.take(table, step)
        if not self.running or self._background is None:
            return
        self.finished_steps += 1
        if pending.dropped is None:
            sequences = None
            if pending.rollouts:
                sequences = sequence_columns(pending.rollouts, self._with_domain)
            also = [StepRows(name, step, more.rows, more.batches)
                    for name, more in beside.items() if more.dropped is None]  # fmt: skip
            rows = StepRows(table, step, pending.rows, pending.batches, sequences, also)
            self._observe(rows)
            if not self._background.offer(rows):
                pending.dropped = "queue full: the disk is slower than training"
        if pending.dropped is not None:
            self._lose(self._background, table, step, pending.rows, pending.dropped)
            self._write_kept_of(pending.rollouts)
        for name, more in beside.items():
            if pending.dropped is not None:
                self._background.drop(name, step, more.rows, pending.dropped)
            elif more.dropped is not None:
                self._lose(self._background, name, step, more.rows, more.dropped)
        self._report(self._background)

    def _observe(self, rows: StepRows) -> None:
        try:
            if self.observer is not None:
                self.observer(rows)
        except Exception as error:
            self.trouble("observer", f"numbers of a step are not reported: {describe(error)}")

    def _lose(self, background: Background, table: str, step: int, rows: int, why: str) -> None:
        """Count a step that is given up, and warn of it."""
        background.drop(table, step, rows, why)
        self._warn(
            why.partition(":")[0],
            f"{self.log_dir}: step {step} of {table} was not recorded: {why}. "
            "Training continues; the log counts what it lacks; this warning appears once",
        )

    # --- kept text -----------------------------------------------------------------------------

    def keep(self, taken: Sequence[Rollout]) -> None:
        """Write the sequence rows of kept rollouts of this rank that no recorded step carries."""
        carried = {r.sequence_id for pending in self._pending.values() for r in pending.rollouts}
        self._write_sequences([r for r in taken if r.sequence_id not in carried])

    def _write_kept_of(self, rollouts: Sequence[Rollout]) -> None:
        # Their step was dropped, but the texts will be scored again.
        kept = {rollout.sequence_id for rollout in self.fixed.kept}
        self._write_sequences([r for r in rollouts if r.sequence_id in kept])

    def _write_sequences(self, rollouts: Sequence[Rollout]) -> None:
        if rollouts and self._background is not None:
            self._background.write_sequences(sequence_columns(rollouts, self._with_domain))

    def store_fixed(self) -> None:
        """Have the fixed set stored in the log at the next flush, for a later attempt."""
        if self._background is not None:
            self._store(self._background)

    def _store(self, background: Background) -> None:
        if self.rank == 0:
            kept, complete_step = tuple(self.fixed.kept), self.fixed.complete_step
            background.store(kept_path(self.attempt), lambda: encode_kept(kept, complete_step))

    # --- notices -------------------------------------------------------------------------------

    def say(self, line: str) -> None:
        """One line on stderr, from rank 0, unless the recorder is quiet."""
        if self.rank == 0 and not self.quiet:
            say(line)

    def trouble(self, key: str, message: str) -> None:
        """Warn, once for each key, of something that recording could not do."""
        self._warn(key, f"{self.log_dir}: {message}. Training continues")

    def warn_if_nothing(self, what: str) -> None:
        """Warn if no step has been finished by the end of `what`."""
        if self.finished_steps == 0:
            self._warn("nothing", f"{self.log_dir}: {what}, and no step was recorded")

    def _report(self, background: Background) -> None:
        for problem in background.problems():
            self._warn(
                problem.partition(":")[2] or problem,
                f"{self.log_dir}: {problem}. Training continues; the log counts what it lacks",
            )

    def _warn(self, key: str, message: str) -> None:
        self._warned.warn(key, message)
