"""Which table and which steps of a log an analysis rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rocktok.errors import LogError, UsageError
from rocktok.log.catalogue import Log

REMEDY = "record with fixed_sequences, or score saved checkpoints with `rocktok rescore`"


@dataclass(frozen=True)
class PrePost:
    """Two steps of a table, `pre` None without persistence; then why, and notes."""

    pre: int | None
    post: int
    no_context: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TableView:
    """One table of a log, and the steps of it that an analysis may use.

    Attributes:
        log: the log.
        table: "fixed" or "rollout".
        steps: all steps, ascending.
        complete: those that every rank has published: defaults are among them.
        notes: what a reader of any result must know of the log and of the table.
    """

    log: Log
    table: str
    steps: tuple[int, ...]
    complete: tuple[int, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, log: Log, table: str = "auto") -> TableView:
        """The table asked for; "auto": fixed/ where there is one, else rollout/.

        Raises `LogError` for a table that the log lacks.
        """
        if table == "auto":
            table = "fixed" if log.shards("fixed") else "rollout"
        if not log.shards(table):
            raise LogError(f"{log.name}: has no {table}/ table; it has {', '.join(log.tables())}")
        steps = tuple(s.step for s in log.steps(table))
        return cls(log, table, steps, tuple(log.complete_steps(table)), _notes(log, table))

    def reference(self, step: int | None) -> tuple[int, tuple[int, ...], tuple[str, ...]]:
        """(one step: `step`, or the last complete one; with it all complete steps; notes).

        Raises `LogError` for a step that the table lacks.
        """
        if step is None:
            self._demand_complete("--step to use one as it is")
        step = self._step(step, self._last, "step")
        notes = self.notes
        if step not in self.complete:
            notes += (f"--step {step} is incomplete: some ranks are missing",)
        return step, tuple(sorted({*self.complete, step})), notes

    def pre_post(self, pre: int | None, post: int | None, context: str) -> PrePost:
        """Two steps of the same text; by default the first and the last complete one.

        Args:
            pre: earlier step.
            post: later step.
            context: "auto": without an earlier step of the same text, the later one alone;
                "required": an error then; "off": the later one alone.

        Raises `LogError` for steps that the table lacks, or where context is required and cannot
        be had; `UsageError` for steps in the wrong order.
        """
        asked = {"pre": pre, "post": post}
        incomplete = set(self.steps) - set(self.complete)
        notes = self.notes + tuple(
            f"--{name} {step} is incomplete: some ranks are missing"
            for name, step in asked.items()
            if step in incomplete
        )
        if post is None:
            self._demand_complete("--post (and --pre) to use one as it is")
        post = self._step(post, self._last, "post")
        reason = self._no_context(pre, post, context)
        if reason is not None:
            if context == "required":
                raise LogError(f"{self.log.name}: context is required, but {reason}; {REMEDY}")
            if context == "auto":
                notes += (f"no persistence and no context consistency: {reason}; {REMEDY}",)
            return PrePost(None, post, reason, notes)
        pre = self._step(pre, self._first, "pre")
        if pre >= post:
            message = f"pre is step {pre}, post is step {post}; it must be the earlier one"
            raise UsageError(message, parameter="pre")
        return PrePost(pre, post, None, notes)

    def course(self, pre: int | None, post: int | None) -> tuple[list[int], tuple[str, ...]]:
        """(complete steps from `pre` to `post`, both by default the outermost; notes).

        Raises `LogError` for a step that the table lacks, or fewer than two steps; `UsageError`
        for steps in the wrong order.
        """
        if pre is None or post is None:
            self._demand_complete("--pre and --post to use two as they are")
        low, high = self._step(pre, self._first, "pre"), self._step(post, self._last, "post")
        if len(self.steps) < 2 or (pre is None and post is None and low == high):
            raise LogError(
                f"{self.log.name}: {self.table}/ has one complete step, {high}; learning needs "
                f"two or more: {REMEDY}"
            )
        if low >= high:
            # The message begins with the one that was asked for.
            early = f"pre is step {low}" + (" (the first complete one)" if pre is None else "")
            late = f"post is step {high}" + (" (the last complete one)" if post is None else "")
            if post is None:
                raise UsageError(f"{early}, {late}; it must be the earlier one", parameter="pre")
            raise UsageError(f"{late}, {early}; it must be the later one", parameter="post")
        between = {step for step in self.complete if low <= step <= high}
        notes = self.notes + tuple(
            f"step {step} is incomplete: some ranks are missing"
            for step in sorted({low, high} - set(self.complete))
        )
        return sorted({*between, low, high}), notes

    @property
    def _first(self) -> int | None:
        return self.complete[0] if self.complete else None

    @property
    def _last(self) -> int | None:
        return self.complete[-1] if self.complete else None

    def _demand_complete(self, remedy: str) -> None:
        if not self.complete:
            raise LogError(
                f"{self.log.name}: no step of {self.table}/ is complete on every rank; give "
                f"{remedy}: {_list(self.steps)}"
            )

    def _step(self, asked: int | None, default: int | None, name: str) -> int:
        step = default if asked is None else asked
        if step is None or step not in self.steps:
            raise LogError(
                f"{self.log.name}: {self.table}/ has no step {step}; --{name} must be one of "
                f"{_list(self.steps)}"
            )
        return step

    def _no_context(self, pre: int | None, post: int, context: str) -> str | None:
        """Why there is no pre and post of the same text; None if there is."""
        if context == "off":
            return "it was switched off"
        if self.table != "fixed":
            which = "was chosen" if self.log.shards("fixed") else "is all that the log has"
            return f"rollout/, where every step has its own text, {which}"
        if pre is None and not any(step < post for step in self.complete):
            return f"fixed/ has no complete step before step {post}"
        return None


def check_comparable(log: Log, other: Log) -> None:
    """Raise `LogError` where two logs' token ids or losses do not mean the same."""
    if other.name == log.name:
        raise LogError(f"{other.name}: is given twice; give the log of a second run")
    sizes = [(part.run or {}).get("vocab_size") for part in (log, other)]
    one, two = log.vocab.identity, other.vocab.identity
    if one != two or (one is None and sizes[0] != sizes[1]):
        raise LogError(
            f"{other.name}: its vocabulary differs from that of {log.name}, so token ids have "
            "other texts; give a log of a run with the same tokenizer"
        )
    if log.rules.exactness != other.rules.exactness:
        raise LogError(
            f"{other.name}: its losses are {other.rules.exactness!r}, those of {log.name} "
            f"{log.rules.exactness!r}; give logs of the same exactness"
        )


def _notes(log: Log, table: str) -> tuple[str, ...]:
    notes = tuple(log.warnings())
    incomplete = log.incomplete_steps(table)
    if incomplete:
        number = f"{len(incomplete)} steps" if len(incomplete) > 1 else "1 step"
        notes += (
            f"{number} of {table}/ dropped or unfinished on some rank, and not used by default: "
            f"{_list(incomplete)}",
        )
    return notes


def _list(steps: Sequence[int], most: int = 12) -> str:
    shown = ", ".join(map(str, steps[:most]))
    return f"{shown}, … {steps[-1]}" if len(steps) > most else shown
