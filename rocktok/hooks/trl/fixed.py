"""Scores kept texts with the student of the moment, inside the training process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rocktok.hooks.background import describe
from rocktok.hooks.gradients import GradientSums
from rocktok.hooks.trl.scoring import IDS_KEY, Scoring
from rocktok.hooks.trl.untouched import untouched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.rollouts import Rollout
    from rocktok.hooks.trl.family import Family
    from rocktok.hooks.trl.scoring import Capturing


def score_fixed(family: Family, recorder: Recorder, capture: Capturing, step: int) -> None:
    """Record the fixed set at `step`. Every rank calls this; none raises.

    Each rank makes the same number of forward passes, as sharded models need: a rank with fewer
    texts repeats its last batch, and that is not recorded.
    """
    trainer = family.trainer
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
                inputs = _inputs(family, batch)
                scoring = Scoring("fixed", step, inputs, record, sums, projections)
                _forward(family, capture, scoring)
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


def _forward(family: Family, capture: Capturing, scoring: Scoring) -> None:
    """As the trainer computes its loss, without gradients."""
    student = family.student
    forward = student.forward
    try:
        with (
            torch.no_grad(),
            family.trainer.compute_loss_context_manager(),
            capture.scoring(scoring),
        ):
            family.forward(scoring)
    except BaseException:
        # TRL's redirection puts the student's forward back only once it has been reached.
        student.forward = forward
        raise


def _inputs(family: Family, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Kept texts as the trainer's own batches, on its device; their ids stay where they are."""
    inputs, device = family.inputs(rollouts), family.trainer.accelerator.device
    return {name: t if name == IDS_KEY else t.to(device) for name, t in inputs.items()}


def generation_inputs(rollouts: Sequence[Rollout], padding: int) -> dict[str, torch.Tensor]:
    """Kept texts as batches of generations: prompts padded left, completions right."""
    prompts = [r.prompt_token_ids for r in rollouts]
    completions = [r.completion_token_ids for r in rollouts]
    arrays = {
        "prompt_ids": pad(prompts, padding, left=True),
        "prompt_mask": pad([np.ones_like(p) for p in prompts], 0, left=True),
        "completion_ids": pad(completions, padding),
        "completion_mask": pad([np.ones_like(c) for c in completions], 0),
        "tool_mask": pad([r.loss_mask for r in rollouts], 1),
    }
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    inputs[IDS_KEY] = torch.tensor([r.sequence_id for r in rollouts])
    return inputs


def pad(rows: Sequence[Any], value: int, left: bool = False) -> Any:
    """(B, T) int64: rows of unlike lengths, padded."""
    width = max(len(row) for row in rows)
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[width - len(row) if left else 0 :][: len(row)] = row
    return padded
