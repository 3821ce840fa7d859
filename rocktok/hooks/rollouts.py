"""One rollout as the hooks hand it around, and its row in the sequences table."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    IntArray = NDArray[np.int32]

_COUNTER_BITS, _RANK_BITS = 32, 21


@dataclass(frozen=True)
class Rollout:
    """A completion, without padding.

    `loss_mask` (int8, as long as the completion) is 0 where a tool wrote the token. `step` is
    when it was generated. `on_policy`: whether the student wrote it; None where a trainer trains on
    nothing else. `teacher_prompt_token_ids`: what the teacher reads instead of the prompt, if so.
    """

    sequence_id: int
    step: int
    prompt_id: str
    prompt_token_ids: IntArray
    completion_token_ids: IntArray
    loss_mask: NDArray[np.int8]
    finish_reason: str
    domain: str | None = None
    on_policy: bool | None = None
    teacher_prompt_token_ids: IntArray | None = None


def sequence_ids(attempt: int, rank: int, first: int, count: int) -> NDArray[np.int64]:
    """`count` ids of a run: attempt · 2^53 + rank · 2^32 + counter, from the counter `first`."""
    start = (attempt << (_COUNTER_BITS + _RANK_BITS)) | (rank << _COUNTER_BITS) | first
    return np.arange(start, start + count, dtype=np.int64)


def prompt_identity(prompt_token_ids: ArrayLike) -> str:
    """16 hex digits of BLAKE2b over the prompt's token ids as little-endian int32."""
    ids = np.ascontiguousarray(prompt_token_ids, dtype="<i4")
    return hashlib.blake2b(ids.tobytes(), digest_size=8).hexdigest()


def sequence_columns(rollouts: Sequence[Rollout], with_domain: bool) -> dict[str, Any]:
    """Rows of the sequences table, as columns."""
    prompts = np.empty(len(rollouts), dtype=object)
    prompts[:] = [r.prompt_token_ids for r in rollouts]
    columns: dict[str, Any] = {
        "sequence_id": np.array([r.sequence_id for r in rollouts], dtype=np.int64),
        "step": np.array([r.step for r in rollouts], dtype=np.int32),
        "num_tokens": np.array([len(r.completion_token_ids) for r in rollouts], dtype=np.int32),
        "prompt_id": [r.prompt_id for r in rollouts],
        "prompt_token_ids": prompts,
        "finish_reason": [r.finish_reason for r in rollouts],
    }
    if with_domain:
        columns["domain"] = [r.domain for r in rollouts]
    if any(r.on_policy is not None for r in rollouts):
        columns["on_policy"] = [r.on_policy for r in rollouts]
    return columns
