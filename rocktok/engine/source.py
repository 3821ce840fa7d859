"""What a pass reads: rows of one step, or of two steps joined, with prompts attached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rocktok.log.checks import SequenceRuns
from rocktok.log.pairs import Pairs
from rocktok.log.reader import Log
from rocktok.log.sequences import Prompts
from rocktok.log.tasks import Task, joined_tasks, step_tasks

Rows = dict[str, Any]

#: Columns that follow from others, made where a pass asks for them.
_DERIVED = {
    "change": ("loss_pre", "loss_post"),
    "student_probability": ("student_logprob",),
    "teacher_probability": ("teacher_logprob",),
    "mean_log_ratio": ("log_ratio",),
}

DERIVABLE = {name: parts[0] for name, parts in _DERIVED.items() if not parts[0].startswith("loss")}


@dataclass(frozen=True)
class Source:
    """Rows of one table at one step (`pre` None), or joined at two.

    Batches have sequence_id, prompt (uint64), position, token_id, loss_post and, with `pre`,
    loss_pre; float32 losses, those within rounding of 0 set to 0; and the asked columns at post.
    """

    log: Log
    table: str
    pre: int | None
    post: int
    columns: tuple[str, ...]
    prompts: Prompts

    def tasks(self) -> list[Task]:
        """How a pass over these rows is shared out."""
        if self.pre is None:
            return step_tasks(self.log, self.table, self.post)
        return joined_tasks(self.log, self.table, self.pre, self.post)

    def for_task(self, task: Task) -> Source:
        """This source with no more in it than the task needs: what is sent to a worker."""
        log = replace(self.log, manifests=[], all_shards={})
        return replace(self, log=log, prompts=self.prompts.within(task.span.low, task.span.high))


@dataclass
class Reading:
    """The rows of one task. Iterate; then the counts and `runs` are known.

    `unpaired`: sequences that only one of two joined steps has; `unlisted`: those that are not in
    sequences/.
    """

    source: Source
    task: Task
    unpaired: int = field(default=0, init=False)
    unlisted: int = field(default=0, init=False)
    runs: SequenceRuns = field(default_factory=SequenceRuns, init=False)

    def __iter__(self) -> Iterator[Rows]:
        source = self.source
        for batch in self._joined() if source.pre is not None else self._single():
            self.unlisted += source.prompts.unlisted(batch["sequence_id"])
            for name in ("loss_pre", "loss_post"):
                if name in batch and source.log.rules.exactness == "exact":
                    batch[name] = np.maximum(batch[name], np.float32(0))
            batch["prompt"] = source.prompts.of(batch["sequence_id"])
            yield batch

    def _single(self) -> Iterator[Rows]:
        source = self.source
        wanted = ["token_id", "loss", *source.columns]
        for shard in self.task.shards[0]:
            for batch in source.log.scan_shard(
                source.table, shard, wanted, [source.post], self.runs
            ):
                rows = dict(batch.columns)
                rows["loss_post"] = rows.pop("loss")
                yield rows

    def _joined(self) -> Iterator[Rows]:
        source = self.source
        assert source.pre is not None
        pairs = Pairs(source.log, source.table, source.pre, source.post, source.columns, self.task)
        yield from pairs
        self.unpaired = pairs.unpaired


def with_derived(batch: Rows) -> Rows:
    """Add the columns that follow from those in the batch."""
    if "loss_pre" in batch:
        batch["change"] = batch["loss_pre"] - batch["loss_post"]
    for name, column in DERIVABLE.items():
        if column in batch:
            values = batch[column].astype(np.float64)
            batch[name] = values if name == "mean_log_ratio" else np.exp(values)
    return batch
