"""Scores kept texts with the student of the moment, inside the training process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rocktok.hooks.background import describe
from rocktok.hooks.gradients import GradientSums
from rocktok.hooks.trl.capture import IDS_KEY, Capture, Scoring
from rocktok.hooks.trl.untouched import untouched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.rollouts import Rollout


def score_fixed(trainer: Any, recorder: Recorder, capture: Capture, step: int) -> None:
    """Record the fixed set at `step`. Every rank calls this; none raises.

    Each rank makes the same number of forward passes, as sharded models need: a rank with fewer
    texts repeats its last batch, and that is not recorded.
    """
    size = trainer.args.per_device_train_batch_size
    share = recorder.fixed.share(recorder.rank, recorder.world_size)
    batches = [share[i : i + size] for i in range(0, len(share), size)]
    calls = -(-recorder.fixed.largest_share(recorder.world_size) // size)
    filler = batches[-1] if batches else recorder.fixed.kept[:size]
    sums = _gradient_sums(trainer, recorder, step, share)
    projections = recorder.begin_contexts()
    with untouched(trainer):
        for number in range(calls):
            record = number < len(batches)
            batch = batches[number] if record else filler
            try:
                inputs = _inputs(trainer, batch)
                scoring = Scoring("fixed", step, inputs, record, sums, projections)
                _forward(trainer, capture, scoring)
            except Exception as error:
                # The other ranks go on to their next batch: this one must, too.
                recorder.drop(step, describe(error), table="fixed")
    if recorder.likeliest:
        # A rank without texts has finished them, too.
        recorder.open_step(step, table="alternatives")
    if projections is not None:
        recorder.record_contexts(step, projections)
    recorder.finish_step(step, table="fixed")
    if recorder.gradients is not None:
        if sums is not None:
            recorder.record_gradients(step, sums)
        recorder.finish_step(step, table="gradients")


def _gradient_sums(
    trainer: Any, recorder: Recorder, step: int, share: Sequence[Rollout]
) -> GradientSums | None:
    """Empty sums for this rank's texts, if gradients are asked for and there is room for them."""
    if recorder.gradients is None:
        return None
    try:
        return GradientSums(
            recorder.gradients,
            share,
            recorder.fixed.kept,
            vocabulary=recorder.vocab_size or 0,
            device=trainer.accelerator.device,
        )
    except Exception as error:
        recorder.drop(step, describe(error), table="gradients")
        return None


def _forward(trainer: Any, capture: Capture, scoring: Scoring) -> None:
    """As the trainer's `compute_loss` does it, without its metrics and their collectives."""
    wrapped = trainer.model_wrapped
    student = trainer.accelerator.unwrap_model(wrapped)
    forward = student.forward
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager(), capture.scoring(scoring):
            trainer._forward_redirection(
                wrapped, student, trainer._compute_loss, student, scoring.inputs, None
            )
    except BaseException:
        # The redirection puts the student's forward back only once it has been reached.
        student.forward = forward
        raise


def _inputs(trainer: Any, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Kept texts as the trainer's own batches look: prompts padded left, completions right."""
    padding = trainer._tokenizer.pad_token_id
    prompts = [r.prompt_token_ids for r in rollouts]
    completions = [r.completion_token_ids for r in rollouts]
    arrays = {
        "prompt_ids": _pad(prompts, padding, left=True),
        "prompt_mask": _pad([np.ones_like(p) for p in prompts], 0, left=True),
        "completion_ids": _pad(completions, padding),
        "completion_mask": _pad([np.ones_like(c) for c in completions], 0),
        "tool_mask": _pad([r.loss_mask for r in rollouts], 1),
    }
    device = trainer.accelerator.device
    inputs: dict[str, Any] = {name: torch.from_numpy(a).to(device) for name, a in arrays.items()}
    inputs[IDS_KEY] = torch.tensor([r.sequence_id for r in rollouts])
    return inputs


def _pad(rows: Sequence[Any], value: int, left: bool = False) -> Any:
    width = max(len(row) for row in rows)
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[width - len(row) if left else 0 :][: len(row)] = row
    return padded
