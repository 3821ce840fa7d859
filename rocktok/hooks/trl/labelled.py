"""Texts of trainers whose batches are whole sequences with labels: GKD, GOLD, IW-OPD.

A batch has `input_ids`, `attention_mask` and `labels`, −100 where a token is not trained on. Where
a text comes from, the student or the data, is decided batch by batch.

Array suffixes: B rows of a batch; L tokens of a row, padding included; K scored columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rocktok.hooks.background import describe
from rocktok.hooks.rollouts import Rollout, prompt_identity
from rocktok.hooks.trl.logits import DIVERGENCES, LogitsCapture, Scored
from rocktok.hooks.trl.scoring import IDS_KEY, SCORING, Scoring, host, total

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Collection, Mapping, Sequence

    from rocktok.hooks.recorder import Recorder

IGNORED = -100


@dataclass(frozen=True)
class LabelledText:
    """Which tokens of a row are its prompt, and which its completion.

    The completion begins with the first token that is trained on and goes on to the last token that
    is no padding; what is not trained on in between, as another turn, has a loss mask of 0.

    Attributes:
        prompt, completion: token ids. loss_mask: of the completion.
        position_L: index in the completion; below 0 before it.
    """

    prompt: Any
    completion: Any
    loss_mask: Any
    position_L: Any


def labelled_text(input_L: Any, attended_L: Any, label_L: Any) -> LabelledText:
    """Take one row apart; its first token is part of the prompt, as nothing predicts it."""
    attended_L = attended_L != 0
    trained_L = (label_L != IGNORED) & attended_L
    trained_L[:1] = False
    where = np.flatnonzero(trained_L)
    first = int(where[0]) if len(where) else len(input_L)
    inside_L = attended_L & (np.arange(len(input_L)) >= first)
    return LabelledText(
        prompt=input_L[attended_L & ~inside_L].astype(np.int32),
        completion=input_L[inside_L].astype(np.int32),
        loss_mask=trained_L[inside_L].astype(np.int8),
        position_L=np.where(inside_L, np.cumsum(inside_L) - 1, -1).astype(np.int32),
    )


class LabelledCapture(LogitsCapture):
    """Wraps `compute_loss` of a trainer, and its `generalized_jsd_loss`.

    Args:
        trainer, recorder: as in `attach`.
        signature: of that loss function.
        on_policy: whether the student wrote the batch whose loss is computed.
        end_ids: token ids that end a text.
        only_on_policy: whether kept text is to be the student's.
    """

    def __init__(
        self,
        trainer: Any,
        recorder: Recorder,
        signature: inspect.Signature,
        *,
        on_policy: Callable[[], bool],
        end_ids: Collection[int],
        only_on_policy: bool,
    ) -> None:
        super().__init__(trainer, recorder)
        self._signature = signature
        self._on_policy, self._only_on_policy = on_policy, only_on_policy
        self._end_ids = frozenset(end_ids)

    def compute_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `compute_loss(model, inputs, return_outputs=False, num_items_in_batch=None)`."""

        def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            step, recorder = self._trainer.state.global_step, self._recorder
            if SCORING.get() is not None or not self._trainer.model.training:
                return original(model, inputs, *args, **kwargs)
            if not recorder.wants(step):
                if recorder.running and recorder.fixed.collecting:
                    self._note(step, inputs)
                return original(model, inputs, *args, **kwargs)
            ids_B = self._note(step, inputs)
            known = inputs if ids_B is None else {**inputs, IDS_KEY: ids_B}
            with self.scoring(Scoring("rollout", step, known)):
                return original(model, inputs, *args, **kwargs)

        return compute_loss

    def loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `generalized_jsd_loss(student_logits, teacher_logits, labels, …)`."""

        def generalized_jsd_loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            scoring = SCORING.get()
            if scoring is None:
                return result
            with self.observing(scoring) as call:
                if scoring.record:
                    bound = self._signature.bind(*args, **kwargs)
                    bound.apply_defaults()
                    scored = self.scored(scoring, bound.arguments)
                    call.rows = int(scored.mask.sum())
                    self._observe(scoring, scored, bound.arguments, result)
            return result

        return generalized_jsd_loss

    def scored(self, scoring: Scoring, arguments: Mapping[str, Any]) -> Scored:
        """What a call of the loss function scores: the last K tokens of each row."""
        labels_BK = arguments["labels"]
        return Scored(
            student_logits=arguments["student_logits"],
            teacher_logits=arguments["teacher_logits"],
            token_ids=labels_BK.clamp(min=0),
            mask=labels_BK != IGNORED,
            positions=positions(scoring.inputs, labels_BK.shape[1]),
            temperature=float(arguments.get("temperature", 1.0)),
        )

    def _observe(
        self, scoring: Scoring, scored: Scored, arguments: Mapping[str, Any], result: Any
    ) -> None:
        whole = not 0 < arguments.get("top_k", 0) < scored.student_logits.shape[-1]
        trained = DIVERGENCES.get(float(arguments["beta"])) if whole else None
        also = () if trained is None else (trained,)
        columns = self.columns(scoring, scored, also)
        if trained is not None:
            rows = len(columns["loss"])
            weight_N = self.weights_of(scoring, scored.token_ids, scored.mask)
            value_N = columns[trained] if weight_N is None else columns[trained] * weight_N
            items = arguments["num_items_in_batch"]
            denominator = max(rows, 1) if items is None else float(items)
            theirs = float(result.detach()) * denominator
            self.compare(scoring, total(value_N), theirs, rows, excused=scored.masked_by_both)
        self.record(scoring, columns, also)

    def _note(self, step: int, inputs: Mapping[str, Any]) -> torch.Tensor | None:
        """Give each text of a batch an id; None where they cannot be read."""
        self._texts = {}
        try:
            rollouts = self._rollouts(step, inputs)
        except Exception as error:
            self._recorder.trouble("generation", f"texts cannot be read: {describe(error)}")
            return None
        self._texts = {rollout.sequence_id: rollout for rollout in rollouts}
        if self._recorder.fixed.collecting:
            self._candidates += [r for r in rollouts if r.on_policy or not self._only_on_policy]
        return torch.tensor([rollout.sequence_id for rollout in rollouts], dtype=torch.int64)

    def _rollouts(self, step: int, inputs: Mapping[str, Any]) -> list[Rollout]:
        rows = [host(inputs[name]) for name in ("input_ids", "attention_mask", "labels")]
        ids = self._recorder.new_sequence_ids(len(rows[0])).tolist()
        on_policy = self._on_policy()
        made = []
        for sequence_id, *row in zip(ids, *rows, strict=True):
            text = labelled_text(*row)
            ended = text.completion.size > 0 and int(text.completion[-1]) in self._end_ids
            made.append(
                Rollout(
                    sequence_id=sequence_id,
                    step=step,
                    prompt_id=prompt_identity(text.prompt),
                    prompt_token_ids=text.prompt,
                    completion_token_ids=text.completion,
                    loss_mask=text.loss_mask,
                    finish_reason="stop" if ended else "length",
                    on_policy=on_policy,
                )
            )
        return made


def positions(inputs: Mapping[str, Any], columns: int) -> Any:
    """(B, K) index of each of the last K tokens of a row in its completion."""
    rows = [host(inputs[name]) for name in ("input_ids", "attention_mask", "labels")]
    return np.stack([labelled_text(*row).position_L[-columns:] for row in zip(*rows, strict=True)])


def labelled_inputs(rollouts: Sequence[Rollout], padding: int) -> dict[str, torch.Tensor]:
    """Kept texts as such batches: prompts padded left, completions right."""
    prompt_width = max(len(r.prompt_token_ids) for r in rollouts)
    width = prompt_width + max(len(r.completion_token_ids) for r in rollouts)
    shape = (len(rollouts), width)
    input_BL = np.full(shape, padding, np.int64)
    attended_BL, label_BL = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    for row, rollout in enumerate(rollouts):
        text = np.concatenate([rollout.prompt_token_ids, rollout.completion_token_ids])
        start = prompt_width - len(rollout.prompt_token_ids)
        here = slice(start, start + len(text))
        input_BL[row, here], attended_BL[row, here] = text, 1
        scored = np.flatnonzero(rollout.loss_mask) + prompt_width
        label_BL[row, scored] = input_BL[row, scored]
    return {
        "input_ids": torch.from_numpy(input_BL),
        "attention_mask": torch.from_numpy(attended_BL),
        "labels": torch.from_numpy(label_BL),
        "prompts": torch.from_numpy(input_BL[:, :prompt_width]),
        "prompt_attention_mask": torch.from_numpy(attended_BL[:, :prompt_width]),
        IDS_KEY: torch.tensor([r.sequence_id for r in rollouts]),
    }
