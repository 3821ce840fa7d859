"""Texts whose tokens a trainer has scored, on their way into a recorder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rocktok.hooks.rollouts import Rollout, prompt_identity

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from rocktok.hooks.recorder import Recorder


@dataclass(frozen=True)
class ScoredText:
    """A prompt and what was generated for it, without padding.

    `scored` (bool, as long as the completion): which of its tokens have a loss.
    """

    prompt_token_ids: NDArray[np.int32]
    completion_token_ids: NDArray[np.int32]
    scored: NDArray[np.bool_]
    domain: str | None = None


def text_of(token_ids: ArrayLike, scored: ArrayLike, domain: str | None = None) -> ScoredText:
    """A text from its tokens and which of them are scored, as targets.

    Args:
        token_ids: (L,) integers, prompt and completion, without padding.
        scored: (L,) nonzero at each token that has a loss. The completion reaches from the first
            such token to the last.
        domain: what kind of problem it is.
    """
    ids = np.asarray(token_ids).astype(np.int32)
    has_loss = np.asarray(scored) != 0
    places = np.flatnonzero(has_loss)
    start, stop = (int(places[0]), int(places[-1]) + 1) if len(places) else (len(ids), len(ids))
    return ScoredText(ids[:start], ids[start:stop], has_loss[start:stop], domain)


def record_texts(
    recorder: Recorder,
    step: int,
    texts: Sequence[ScoredText],
    statistics: Mapping[str, Any],
    ends: Collection[int] = (),
) -> None:
    """Record the scored tokens of texts as rollouts of a step.

    Args:
        recorder: a running recorder.
        step: optimizer steps that the scored student has taken.
        texts: the texts; those without a scored token are left out.
        statistics: `loss` and the recorder's columns, each (N,) for the N scored tokens of all
            texts, in their order.
        ends: token ids with which a completion is finished rather than cut.

    Raises:
        ValueError: a column has another number of rows than there are scored tokens.
    """
    texts = [text for text in texts if text.scored.any()]
    places = [np.flatnonzero(text.scored) for text in texts]
    counts = [len(place) for place in places]
    for name, values in statistics.items():
        if len(values) != sum(counts):
            raise ValueError(f"{name} has {len(values)} rows for {sum(counts)} scored tokens")
    ids = recorder.new_sequence_ids(len(texts))
    tokens = [t.completion_token_ids[place] for t, place in zip(texts, places, strict=True)]
    columns = {
        "sequence_id": np.repeat(ids, counts),
        "position": _joined(places),
        "token_id": _joined(tokens),
        **statistics,
    }
    rollouts = [_rollout(number, step, t, ends) for number, t in zip(ids, texts, strict=True)]
    recorder.record(step, columns, rollouts=rollouts)


def _joined(parts: Sequence[Any]) -> NDArray[np.int32]:
    return np.concatenate([np.empty(0, np.int32), *parts]).astype(np.int32)


def _rollout(number: Any, step: int, text: ScoredText, ends: Collection[int]) -> Rollout:
    stopped = int(text.completion_token_ids[-1]) in ends
    return Rollout(
        sequence_id=int(number),
        step=step,
        prompt_id=prompt_identity(text.prompt_token_ids),
        prompt_token_ids=text.prompt_token_ids,
        completion_token_ids=text.completion_token_ids,
        loss_mask=text.scored.astype(np.int8),
        finish_reason="stop" if stopped else "length",
        domain=text.domain,
    )
