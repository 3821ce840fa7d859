"""The same sequences at two steps: a join on sequence_id, streamed.

Both steps are read side by side. Where their shards hold the sequences in the same order (the
hooks' always do) no more than a batch of each waits for its other half; a hand-written log in
another order costs the memory of what waits, never a wrong answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from rocktok.errors import DataError
from rocktok.log.checks import SequenceRuns
from rocktok.log.selection import KEY
from rocktok.log.shard import sequence_starts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rocktok._types import Array
    from rocktok.log.reader import Reader, ShardRows
    from rocktok.log.tasks import Task


@dataclass
class JoinedSteps:
    """Sequences of a task that stand at both `pre` and `post`. Iterate to read them.

    Batches are mappings of equally long arrays: sequence_id, position, token_id, `loss_pre`,
    `loss_post`, the asked columns as they are at post, and those of `early` as they are at pre,
    as NAME_pre. `told`: called with a step and the columns that were read of it, part by part.
    After an iteration `unpaired` is the number of sequences that only one of the steps
    has, and `alone` holds those that `post` has.
    """

    reader: Reader
    table: str
    pre: int
    post: int
    columns: Sequence[str]
    task: Task
    early: Sequence[str] = ()
    told: Callable[[int, Mapping[str, Array]], None] | None = None
    unpaired: int = field(default=0, init=False)
    alone: frozenset[int] = field(default=frozenset(), init=False)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        waiting: tuple[dict[int, Part], dict[int, Part]] = ({}, {})
        shared = ["token_id", "loss"]
        # Ids of tasks do not overlap, so duplicates between shards are found within one.
        checks = SequenceRuns(), SequenceRuns()
        early = self._scan(0, self.pre, [*shared, *self.early], checks[0])
        late = self._scan(1, self.post, [*shared, *self.columns], checks[1])
        for pre, post in zip_longest(early, late):
            if pre is not None and post is not None and not any(waiting) and _aligned(pre, post):
                yield self._join(pre.columns, post.columns)
                continue
            for side, rows in enumerate((pre, post)):
                if rows is not None:
                    waiting[side].update(_split(rows))
            ready = [key for key in waiting[1] if key in waiting[0]]
            if ready:
                yield self._match([(waiting[0].pop(key), waiting[1].pop(key)) for key in ready])
        self.unpaired = len(waiting[0]) + len(waiting[1])
        self.alone = frozenset(waiting[1])
        for check in checks:
            check.check()

    def _scan(
        self, side: int, step: int, columns: Sequence[str], check: SequenceRuns
    ) -> Iterator[ShardRows]:
        for shard in self.task.shards[side]:
            for rows in self.reader.scan_shard(
                shard, (*KEY, *columns), [step], check, self.task.span
            ):
                if self.told is not None:
                    self.told(step, rows.columns)
                yield rows

    def _match(self, pairs: list[tuple[Part, Part]]) -> dict[str, Array]:
        for early, late in pairs:
            if not all(
                np.array_equal(early.rows[name], late.rows[name])
                for name in ("position", "token_id")
            ):
                raise DataError(
                    f"{late.name}: sequence {int(late.rows['sequence_id'][0])} at step {self.post} "
                    f"is not the text that {early.name} has at step {self.pre}; a sequence_id in "
                    f"{self.table}/ must mean the same text at every step"
                )
        pre, post = (
            {name: np.concatenate([p.rows[name] for p in side]) for name in side[0].rows}
            for side in zip(*pairs, strict=True)
        )
        return self._join(pre, post)

    def _join(self, pre: dict[str, Array], post: dict[str, Array]) -> dict[str, Array]:
        names = ["sequence_id", "position", "token_id", *self.columns]
        joined = {name: post[name] for name in names}
        joined |= {f"{name}_pre": pre[name] for name in self.early}
        return {**joined, "loss_pre": pre["loss"], "loss_post": post["loss"]}


@dataclass(frozen=True)
class Part:
    """One sequence at one step, and the shard it came from."""

    rows: dict[str, Array]
    name: str


def _split(rows: ShardRows) -> dict[int, Part]:
    starts = sequence_starts(rows.columns["step"], rows.columns["sequence_id"])
    stops = np.append(starts[1:], len(rows))
    ids = rows.columns["sequence_id"][starts]
    return {
        int(key): Part({n: v[start:stop] for n, v in rows.columns.items()}, rows.name)
        for key, start, stop in zip(ids, starts, stops, strict=True)
    }


def _aligned(pre: ShardRows, post: ShardRows) -> bool:
    """Whether both hold the same rows of text; the common case, checked wholesale."""
    return len(pre) == len(post) and all(
        np.array_equal(pre.columns[name], post.columns[name])
        for name in ("sequence_id", "position", "token_id")
    )
