"""Takes the losses of one `GKDTrainer` of ms-swift, from its construction to the end of training.

`compute_loss` tells which batch is scored, `_compute_jsd_loss` has both models' logits, and the
Liger loss has hidden states and heads.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from rocktok.errors import HookError
from rocktok.hooks.background import describe
from rocktok.hooks.ms_swift import batches
from rocktok.hooks.ms_swift.describe import describe_run, fingerprint, tokenizer_of
from rocktok.hooks.possible_columns import fit_columns
from rocktok.hooks.scored_texts import ScoredText, record_texts
from rocktok.hooks.statistics import COLUMNS, token_statistics
from rocktok.hooks.topk import TOPK_COLUMNS
from rocktok.hooks.vocabulary import vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rocktok.hooks.recorder import Recorder

#: How far the recorded sum may be from the trainer's own, beside the rounding of its type.
RELATIVE_TOLERANCE = 1e-4
NATS_PER_TOKEN_TOLERANCE = 1e-6
#: Steps of rounding of the logits' type that the trainer's own loss may be off by.
_ROUNDINGS = 16


@dataclass
class _Batch:
    """A batch whose losses are to be recorded, while the trainer computes its loss."""

    step: int
    texts: list[ScoredText]
    calls: int = 0


class GkdRecording:
    """Records one trainer into a log, while it trains.

    Raises `HookError` if its loss cannot be recorded.
    """

    def __init__(self, trainer: Any, recorder: Recorder) -> None:
        self._trainer, self._recorder = trainer, recorder
        self._asked = recorder.columns
        self._batch: _Batch | None = None
        self._last, self._finished = -1, -1
        self.exactness = _exactness(trainer)
        _check(trainer)
        self._fit_columns()
        if trainer.use_liger_gkd_loss:
            trainer.liger_jsd_loss = self._liger(trainer.liger_jsd_loss)
        trainer.add_callback(RecordingCallback(self))

    def _fit_columns(self) -> None:
        """Leave out the statistics that cannot be had."""
        if self.exactness == "exact":
            with_hidden = self._trainer.use_liger_gkd_loss
            possible = [c for c in COLUMNS if with_hidden or c != "head_grad_norm"]
            why = "ms-swift's loss sees no hidden states"
        else:
            possible, why = list(TOPK_COLUMNS), "the teacher's API gives its likeliest tokens only"
            if (self._trainer.gkd_logits_topk or 1) < batches.TOP_K:
                possible = possible[:2]
        self._recorder.columns = fit_columns(self._recorder, self._asked, possible, why)

    # --- when things happen ----------------------------------------------------------------------

    def start(self, state: Any) -> None:
        """Begin an attempt. Raises `HookError`, on all ranks, if the log refuses it."""
        recorder, trainer = self._recorder, self._trainer
        recorder.close(final=False)
        self._last, self._finished = -1, -1
        recorder.start(
            rank=trainer.accelerator.process_index,
            world_size=trainer.accelerator.num_processes,
            resume_step=state.global_step,
            run=describe_run(trainer, self.exactness),
            vocab=self._vocabulary(),
            fingerprint=fingerprint(trainer),
            all_gather=_all_gather,
            last_step=state.max_steps,
        )
        self._ends = recorder.terminal_ids

    def _vocabulary(self) -> list[tuple[int, str, bytes]] | None:
        try:
            return list(vocabulary(tokenizer_of(self._trainer)))
        except Exception as error:
            what = f"the tokenizer's vocabulary cannot be read: {describe(error)}"
            self._recorder.trouble("vocabulary", f"{what}; tokens of this log will print as ids")
            return None

    def end_step(self, step: int) -> None:
        """Hand over the rows of a step, if it was recorded."""
        if self._recorder.running and step == self._last and step != self._finished:
            self._finished = step
            self._recorder.finish_step(step)

    def sync(self) -> None:
        """Have what is finished on disk before a checkpoint is."""
        self._recorder.sync()

    def end(self) -> None:
        """End the attempt."""
        self._recorder.close(final=True)
        self._recorder.warn_if_nothing("training ended")

    # --- what is seen ----------------------------------------------------------------------------

    def wants(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a batch is to be recorded."""
        recorder, trainer = self._recorder, self._trainer
        if not recorder.running or not trainer.model.training:
            return False
        if getattr(inputs.get("gkd_batch"), "data_source", None) != "student":
            return False
        step = trainer.state.global_step
        return bool(step == self._last or step // recorder.every > self._last // recorder.every)

    @contextmanager
    def scoring(self, inputs: Mapping[str, Any]) -> Iterator[None]:
        """Record the losses that are computed inside the `with` block."""
        step = self._last = self._trainer.state.global_step
        try:
            # Before the trainer cuts what it does not need of them.
            texts = batches.texts_of(inputs["model_inputs"], bool(self._trainer.padding_free))
            self._batch = _Batch(step, texts)
        except Exception as error:
            self._recorder.drop(step, f"the batch cannot be read: {describe(error)}")
        try:
            yield
            if self._batch is not None and self._batch.calls != 1:
                calls = self._batch.calls
                self._recorder.drop(step, f"the loss function was called {calls} times for a batch")
        finally:
            self._batch = None

    def observe_logits(self, student: Any, teacher: Any, labels: Any, loss: Any) -> None:
        """Record the losses behind a call of `_compute_jsd_loss`, which has shifted the teacher's
        labels already. Never raises.
        """
        if self._batch is not None:
            shifted = torch.roll(labels, shifts=-1, dims=1)
            self._observe(lambda: self._of_logits(student, teacher, shifted), loss)

    def _liger(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around the fused loss, which takes everything by name."""

        def liger_jsd_loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._batch is not None:
                self._observe(lambda: (self._of_hidden(kwargs), None), result)
            return result

        return liger_jsd_loss

    def _observe(self, compute: Callable[[], tuple[dict[str, Any], Any]], loss: Any) -> None:
        batch = self._batch
        if batch is None:
            return
        batch.calls += 1
        try:
            statistics, keep_N = compute()
            texts = batch.texts if keep_N is None else _without(batch.texts, keep_N)
            self._compare(batch.step, statistics["loss"], loss)
            columns = {name: statistics[name] for name in ("loss", *self._recorder.columns)}
            record_texts(self._recorder, batch.step, texts, columns, self._ends)
        except Exception as error:
            rows = sum(int(text.scored.sum()) for text in batch.texts)
            self._recorder.drop(batch.step, describe(error), rows=rows)

    def _of_logits(self, student: Any, teacher: Any, labels: Any) -> tuple[dict[str, Any], Any]:
        mask_BS, teacher_mask_BS = (
            each != batches.IGNORED for each in (labels, teacher.labels.to(labels.device))
        )
        token_N = labels[mask_BS]
        temperature = float(self._trainer.temperature)
        masks = mask_BS.to(student.device), teacher_mask_BS.to(student.device)
        if self.exactness == "exact":
            found = batches.exact_statistics(
                student, teacher.full_logits, *masks, token_N, temperature=temperature,
                columns=self._recorder.columns, terminal_ids=self._recorder.terminal_ids,
            )  # fmt: skip
            return found, None
        # Positions of which the teacher said nothing have no loss.
        keep_N = ~batches.uncovered(teacher.topk_logprobs, masks[1])
        masks = tuple(_selected(mask, keep_N) for mask in masks)
        found = batches.topk_rows(
            student, teacher.topk_indices, teacher.topk_logprobs, *masks, token_N[keep_N],
            temperature=temperature, columns=self._recorder.columns,
        )  # fmt: skip
        return found, keep_N.cpu().numpy()

    def _of_hidden(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        labels = arguments["true_labels"]
        recorder = self._recorder
        return token_statistics(
            token_ids=labels,
            student_hidden=arguments["student_input"],
            teacher_hidden=arguments["teacher_input"],
            student_head=arguments["student_weight"],
            teacher_head=arguments["teacher_weight"],
            student_bias=arguments.get("student_bias"),
            teacher_bias=arguments.get("teacher_bias"),
            temperature=float(self._trainer.temperature),
            mask=labels != batches.IGNORED,
            columns=("loss", *recorder.columns),
            terminal_ids=recorder.terminal_ids,
        )

    def _compare(self, step: int, loss_N: Any, trained: Any) -> None:
        """Hold the recorded losses against the mean that the trainer computed from its own."""
        trainer, rows = self._trainer, len(loss_N)
        truncated = self.exactness == "truncated"
        # What Liger divides by has changed between its versions.
        if trainer.beta != 1 or not rows or trainer.use_liger_gkd_loss:
            return
        if not (truncated or _all_trained(trainer, self)):
            return
        mean, theirs = float(loss_N.double().mean()), float(trained.detach())
        rounding = _ROUNDINGS * torch.finfo(trained.dtype).eps
        tolerance = max(RELATIVE_TOLERANCE, rounding) * abs(theirs) + NATS_PER_TOKEN_TOLERANCE
        if not math.isfinite(theirs) or abs(mean - theirs) > tolerance:
            self._recorder.mismatch(
                step,
                f"{self._recorder.log_dir}: the recorded losses differ from the trained ones: at "
                f"step {step} ({rows} tokens) their mean is {mean:.9g} nats, the trainer's own "
                f"{theirs:.9g}. The log counts such calls, and `rocktok info` shows their number; "
                "do not trust this log until the cause is known",
            )


class RecordingCallback(TrainerCallback):  # type: ignore[misc]
    """Drives a recording through `Trainer.train`: one attempt for each call."""

    def __init__(self, recording: GkdRecording) -> None:
        self._recording = recording

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start an attempt."""
        self._recording.start(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hand over the rows of the step that has just been taken."""
        # The rollouts were scored by the student before it.
        self._recording.end_step(state.global_step - 1)
        if control.should_save:
            self._recording.sync()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a checkpoint that nobody announced."""
        self._recording.sync()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the attempt."""
        self._recording.end()


def _exactness(trainer: Any) -> str:
    if not trainer.use_teacher_api:
        return "exact"
    return "topk" if trainer.temperature == 1 else "truncated"


def _all_trained(trainer: Any, recording: GkdRecording) -> bool:
    """Whether the trainer's own loss is over the whole vocabulary."""
    return recording.exactness == "exact" and trainer.gkd_logits_topk is None


def _check(trainer: Any) -> None:
    """Raise `HookError` for a trainer whose loss cannot be recorded."""
    if trainer.lmbda == 0:
        raise HookError(
            "ms-swift trains on texts of the dataset alone (lmbda 0), so there are no rollouts to "
            "record; set --lmbda above 0, or leave the plugin out"
        )
    parts = getattr(trainer.template, "sequence_parallel_size", 1)
    if parts > 1:
        raise HookError(
            f"ms-swift splits each text over {parts} ranks (sequence parallelism), which cannot be "
            "recorded; set --sequence_parallel_size 1, or leave the plugin out"
        )


def _selected(mask_BS: Any, keep_N: Any) -> Any:
    kept_BS = mask_BS.clone()
    kept_BS[mask_BS] = keep_N.to(mask_BS.device)
    return kept_BS


def _without(texts: list[ScoredText], keep_N: Any) -> list[ScoredText]:
    """The texts, with those of their scored tokens that are kept."""
    ends = np.cumsum([int(text.scored.sum()) for text in texts])
    result = []
    for text, kept in zip(texts, np.split(keep_N, ends[:-1]), strict=True):
        scored = text.scored.copy()
        scored[scored] = kept
        result.append(replace(text, scored=scored))
    return result


def _all_gather(value: Any) -> list[Any]:
    """Every rank's object, in rank order."""
    from accelerate.utils import gather_object

    return list(gather_object([value]))
