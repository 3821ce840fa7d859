"""The fixed set: texts kept from early rollouts, scored again and again as the student learns."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rocktok.errors import DamagedError, LogError
from rocktok.hooks.rollouts import Rollout
from rocktok.log.manifest import load_attempts, load_manifests
from rocktok.log.resume import published_sequences

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rocktok.files import Place
    from rocktok.hooks.rollouts import IntArray

_COMPLETE_KEY = b"rocktok.complete_step"


@dataclass(frozen=True)
class Inherited:
    """What a new attempt goes on with.

    `kept`: texts of earlier attempts. `complete_step`: when that set was complete (None: it was
    not). `again`: the step that the attempt resumes from, if the set has been scored at it, for
    those rows are void now. `sketched`: ids of kept texts whose contexts stand in the log.
    """

    kept: tuple[Rollout, ...] = ()
    complete_step: int | None = None
    again: int | None = None
    sketched: frozenset[int] = frozenset()


class FixedSet:
    """The first `rollouts` rollouts of each of the first `limit` distinct prompts, over all ranks.

    Every rank holds the same set, for all offer their candidates to one another and accept them in
    the same order. Once complete it never changes.

    Args:
        limit: number of prompts wanted.
        every: steps between scorings.
        inherited: what earlier attempts kept.
        rollouts: number of texts wanted of each prompt.
    """

    def __init__(
        self, limit: int, every: int, inherited: Inherited | None = None, rollouts: int = 1
    ) -> None:
        inherited = inherited or Inherited()
        self.limit = limit
        self.every = every
        self.rollouts = rollouts
        self.kept = list(inherited.kept)
        self.complete_step = inherited.complete_step
        self._again = inherited.again
        self.sketched = inherited.sketched
        self._of_prompt = Counter(rollout.prompt_id for rollout in self.kept)
        self._last_scored: int | None = None

    @property
    def collecting(self) -> bool:
        """Whether more texts may come."""
        return self.complete_step is None and self.limit > 0

    @property
    def prompts(self) -> int:
        """Prompts of which text is kept."""
        return len(self._of_prompt)

    def candidates(self, rollouts: Iterable[Rollout]) -> list[Rollout]:
        """The rollouts that there is room for, in order."""
        found: list[Rollout] = []
        counts = Counter[str]()
        new = self.limit - self.prompts
        for rollout in rollouts:
            prompt = rollout.prompt_id
            first = not self._of_prompt[prompt] and not counts[prompt]
            if not rollout.loss_mask.any() or (first and new == 0):
                continue
            if self._of_prompt[prompt] + counts[prompt] < self.rollouts:
                new -= first
                counts[prompt] += 1
                found.append(rollout)
        return found

    def accept(self, offered: Iterable[Rollout]) -> list[Rollout]:
        """Take candidates in order until the set is full; returns those taken."""
        taken = self.candidates(offered)
        self.kept += taken
        self._of_prompt.update(rollout.prompt_id for rollout in taken)
        return taken

    def size(self, prompts: int) -> tuple[int, int]:
        """Scored positions, and types that stand in so many prompts or more."""
        pairs = set[tuple[str, int]]()
        positions = 0
        for rollout in self.kept:
            scored = rollout.completion_token_ids[rollout.loss_mask != 0]
            positions += len(scored)
            pairs.update((rollout.prompt_id, token) for token in np.unique(scored).tolist())
        held = Counter(token for _, token in pairs)
        return positions, sum(count >= prompts for count in held.values())

    @property
    def is_full(self) -> bool:
        """Whether as many texts are kept as were wanted."""
        return len(self.kept) >= self.limit * self.rollouts

    def complete(self, step: int) -> None:
        """Take no more texts from now on."""
        if self.collecting:
            self.complete_step = step

    def is_due(self, step: int, last: bool = False) -> bool:
        """Whether the set is to be scored with the student of this step."""
        if self.complete_step is None or not self.kept or step == self._last_scored:
            return False
        return last or step in (self.complete_step, self._again) or step % self.every == 0

    def scored(self, step: int) -> None:
        """Note that the set was scored at this step, so that it is not scored twice."""
        self._last_scored = step

    def share(self, rank: int, world_size: int) -> list[Rollout]:
        """This rank's part: contiguous in sequence id; part sizes differ by one at most."""
        ordered = sorted(self.kept, key=lambda rollout: rollout.sequence_id)
        start, stop = (len(ordered) * r // world_size for r in (rank, rank + 1))
        return ordered[start:stop]

    def largest_share(self, world_size: int) -> int:
        """Sequences that the rank with the most has."""
        return -(-len(self.kept) // world_size)

    def most_positions(self, world_size: int) -> int:
        """Scored positions that the rank with the most has."""
        shares = (self.share(rank, world_size) for rank in range(world_size))
        return max(sum(int((r.loss_mask != 0).sum()) for r in share) for share in shares)


def kept_path(attempt: int) -> str:
    """Where an attempt stores its fixed set below the log."""
    return f"kept/{attempt:02d}.parquet"


def encode_kept(kept: Sequence[Rollout], complete_step: int | None) -> bytes:
    """The fixed set as a Parquet file, in the order in which it was kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    int_list = pa.list_(pa.int32())
    table = pa.table(
        {
            "sequence_id": pa.array([r.sequence_id for r in kept], pa.int64()),
            "step": pa.array([r.step for r in kept], pa.int32()),
            "prompt_id": pa.array([r.prompt_id for r in kept], pa.string()),
            "prompt_token_ids": pa.array([r.prompt_token_ids for r in kept], int_list),
            "completion_token_ids": pa.array([r.completion_token_ids for r in kept], int_list),
            "loss_mask": pa.array([r.loss_mask for r in kept], pa.list_(pa.int8())),
            "finish_reason": pa.array([r.finish_reason for r in kept], pa.string()),
            "domain": pa.array([r.domain for r in kept], pa.string()),
            "on_policy": pa.array([r.on_policy for r in kept], pa.bool_()),
            "teacher_prompt_token_ids": pa.array(
                [r.teacher_prompt_token_ids for r in kept], int_list
            ),
        }
    )
    if complete_step is not None:
        table = table.replace_schema_metadata({_COMPLETE_KEY: str(complete_step)})
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()


def inherit(where: Place, resume_step: int) -> Inherited:
    """What earlier attempts leave to one that starts now from this step.

    Texts from steps that a later attempt did again are void, as their rows are. Raises
    `DamagedError`.
    """
    valid_below = resume_step
    for attempt in reversed(load_attempts(where)):
        path = kept_path(attempt.attempt)
        if where.exists(path):
            kept, complete_step = _decode_kept(where, path)
            valid = tuple(rollout for rollout in kept if rollout.step < valid_below)
            if len(valid) < len(kept) or (complete_step or 0) > valid_below:
                complete_step = None
            return Inherited(
                valid,
                complete_step,
                resume_step if _was_scored(where, resume_step) else None,
                _sketched(where, resume_step) & {rollout.sequence_id for rollout in valid},
            )
        valid_below = min(valid_below, attempt.resume_step)
    return Inherited()


def _was_scored(where: Place, step: int) -> bool:
    """Whether an attempt has scored the fixed set at this step (also if that cannot be known)."""
    try:
        return any(step in manifest.steps.get("fixed", ()) for manifest in load_manifests(where))
    except LogError:
        return True


def _sketched(where: Place, resume_step: int) -> frozenset[int]:
    """Sequences whose contexts stand, and still do when an attempt resumes from this step."""
    attempts, found = load_attempts(where), set[int]()
    for manifest in load_manifests(where):
        later = [a.resume_step for a in attempts if a.attempt > manifest.attempt]
        limit = min([resume_step, *later])
        steps = {step for entry in manifest.shards for step in entry.steps if step < limit}
        by_step = published_sequences(where, manifest, "contexts", frozenset(steps))
        found.update(number for id_S in by_step.values() for number in id_S.tolist())
    return frozenset(found)


def _decode_kept(where: Place, path: str) -> tuple[list[Rollout], int | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        source = pa.BufferReader(where.read(path))
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            table, rows = file.read(), file.metadata.num_rows
        if any(len(column) != rows for column in table.columns):
            raise ValueError(f"columns shorter than its {rows} rows")
        complete = (table.schema.metadata or {}).get(_COMPLETE_KEY)
        rollouts = [
            Rollout(
                sequence_id=row["sequence_id"],
                step=row["step"],
                prompt_id=row["prompt_id"],
                prompt_token_ids=np.array(row["prompt_token_ids"], dtype=np.int32),
                completion_token_ids=np.array(row["completion_token_ids"], dtype=np.int32),
                loss_mask=np.array(row["loss_mask"], dtype=np.int8),
                finish_reason=row["finish_reason"],
                domain=row["domain"],
                on_policy=row.get("on_policy"),
                teacher_prompt_token_ids=_optional_ids(row.get("teacher_prompt_token_ids")),
            )
            for row in table.to_pylist()
        ]
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise DamagedError(
            f"{where.show(path)}: damaged ({str(error).splitlines()[0]}); restore it from a copy"
        ) from error
    return rollouts, None if complete is None else int(complete)


def _optional_ids(ids: list[int] | None) -> IntArray | None:
    return None if ids is None else np.array(ids, dtype=np.int32)
