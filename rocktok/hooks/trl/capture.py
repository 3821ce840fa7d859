"""Reads each token's loss off the forward passes of TRL's `DistillationTrainer`.

Three calls are watched. Generation: each sequence gets an id, added to the trainer's batch as a
tensor, so that it survives shuffling and splitting. `_compute_loss`: tells which batch is being
scored. `_chunked_divergence_loss`: has hidden states and heads, and the trainer's own loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rocktok.hooks.arguments import END_COLUMNS
from rocktok.hooks.background import describe
from rocktok.hooks.rollouts import Rollout, prompt_identity
from rocktok.hooks.statistics import token_statistics
from rocktok.hooks.trl.scoring import IDS_KEY, SCORING, Capturing, Scoring, host, total

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Mapping, Sequence

    from rocktok.hooks.gradient_sinks import GradientSink
    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.trl.weighted_loss import WeightedDistillation


@dataclass
class _Generation:
    """The sequences of one generation batch; read only if they turn out to be wanted."""

    step: int
    sequence_ids: list[int]
    domains: list[str | None]
    output: Mapping[str, Any]
    eos_token_ids: Sequence[int]
    _rollouts: dict[int, Rollout] = field(default_factory=dict)

    def rollouts(self) -> dict[int, Rollout]:
        """By sequence id, in row order. Copies from the device, once."""
        if not self._rollouts:
            completion_mask = host(self.output["completion_mask"]) != 0
            loss_mask = completion_mask
            if "tool_mask" in self.output:
                loss_mask = completion_mask & (host(self.output["tool_mask"]) != 0)
            prompts = host(self.output["prompt_ids"]), host(self.output["prompt_mask"]) != 0
            completions = host(self.output["completion_ids"])
            for row, sequence_id in enumerate(self.sequence_ids):
                prompt = prompts[0][row][prompts[1][row]].astype(np.int32)
                written = completion_mask[row]
                completion = completions[row][written].astype(np.int32)
                stopped = completion.size > 0 and int(completion[-1]) in self.eos_token_ids
                self._rollouts[sequence_id] = Rollout(
                    sequence_id=sequence_id,
                    step=self.step,
                    prompt_id=prompt_identity(prompt),
                    prompt_token_ids=prompt,
                    completion_token_ids=completion,
                    loss_mask=loss_mask[row][written].astype(np.int8),
                    finish_reason="stop" if stopped else "length",
                    domain=self.domains[row],
                )
        return self._rollouts


class GenerationCapture(Capturing):
    """Notes what a trainer generates with `_generate_and_score_completions`."""

    def __init__(self, trainer: Any, recorder: Recorder) -> None:
        super().__init__(trainer, recorder)
        self._generation: _Generation | None = None

    def generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `_generate_and_score_completions(inputs)`."""

        def generate(inputs: Any) -> Any:
            output = original(inputs)
            if self._recorder.running and self._trainer.model.training:
                try:
                    self._note_generation(inputs, output)
                except Exception as error:
                    # The forward pass finds no ids then, and drops the step if it is recorded.
                    self._generation = None
                    self._recorder.trouble("generation", f"cannot read it: {describe(error)}")
            return output

        return generate

    def _note_generation(self, inputs: Any, output: dict[str, Any]) -> None:
        rows = len(output["completion_ids"])
        ids = self._recorder.new_sequence_ids(rows)
        domains = [row.get("domain") for row in inputs]
        self._generation = _Generation(
            step=self._trainer.state.global_step,
            sequence_ids=ids.tolist(),
            domains=[None if domain is None else str(domain) for domain in domains],
            output=dict(output),
            eos_token_ids=self._trainer.eos_token_ids,
        )
        output[IDS_KEY] = torch.from_numpy(ids)
        if self._recorder.fixed.collecting:
            self._candidates += self._generation.rollouts().values()

    def new_rollouts(self, scoring: Scoring, sequence_id_N: Any) -> list[Rollout]:
        """The sequences of some rows that the log does not have yet."""
        if scoring.table == "fixed" or self._generation is None:
            return []
        rollouts = self._generation.rollouts()
        return [rollouts[i] for i in np.unique(sequence_id_N).tolist() if i in rollouts]


class Capture(GenerationCapture):
    """Wraps the three calls of a `DistillationTrainer`."""

    weighted: WeightedDistillation | None

    def __init__(self, trainer: Any, recorder: Recorder, loss_signature: inspect.Signature) -> None:
        super().__init__(trainer, recorder)
        self._loss_signature = loss_signature

    def compute_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `_compute_loss(unwrapped_student, inputs, num_items_in_batch)`."""

        def compute_loss(unwrapped_student: Any, inputs: Any, num_items_in_batch: Any) -> Any:
            step = self._trainer.state.global_step
            if SCORING.get() is None and self._trainer.model.training:
                if not self._recorder.wants(step):
                    return original(unwrapped_student, inputs, num_items_in_batch)
                with self.scoring(Scoring("rollout", step, inputs)):
                    return original(unwrapped_student, inputs, num_items_in_batch)
            return original(unwrapped_student, inputs, num_items_in_batch)

        return compute_loss

    def loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around the module's `_chunked_divergence_loss`."""

        @wraps(original)
        def chunked_divergence_loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            scoring = SCORING.get()
            if scoring is not None:
                self._observe(scoring, args, kwargs, result)
            return result

        return chunked_divergence_loss

    def _observe(self, scoring: Scoring, args: Any, kwargs: Any, result: Any) -> None:
        """Record the losses behind one call of the loss function. Never raises."""
        with self.observing(scoring) as call:
            if not scoring.record:
                return
            bound = self._loss_signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = bound.arguments
            mask_BK = arguments["completion_mask"].detach() != 0
            call.rows = int(mask_BK.sum())
            columns = self._columns(scoring, arguments, mask_BK)
            if arguments["beta"] == 1:
                loss_N = self._trained(scoring, columns["loss"], mask_BK)
                self._compare(scoring, loss_N, arguments, result)
            self._recorder.record(
                scoring.step,
                columns,
                table=scoring.table,
                rollouts=self.new_rollouts(scoring, columns["sequence_id"]),
            )

    def _columns(
        self, scoring: Scoring, arguments: Mapping[str, Any], mask_BK: torch.Tensor
    ) -> dict[str, Any]:
        ids_B = scoring.inputs.get(IDS_KEY)
        if ids_B is None:
            raise RuntimeError("the batch carries no sequence ids")
        token_ids_BK = scoring.inputs["completion_ids"].to(mask_BK.device)
        row_N, position_N = mask_BK.nonzero(as_tuple=True)
        sequence_N = host(ids_B)[host(row_N)]
        token_N = host(token_ids_BK[mask_BK]).astype(np.int32)
        sink = None
        if scoring.gradients is not None:
            sink = scoring.gradients.batch(sequence_N, token_N)
        statistics = _statistics(
            arguments,
            token_ids_BK,
            mask_BK,
            self._recorder,
            alternatives=self._recorder.likeliest if scoring.table == "fixed" else 0,
            sink=sink,
        )
        if scoring.projections is not None:
            hidden_BKH = _whole(arguments["teacher_hidden_states"])
            place_N, at_N = (row_N, position_N), host(position_N).astype(np.int32)
            self.sketch(scoring.projections, hidden_BKH, sequence_N, place_N, at_N)
        return {
            "sequence_id": sequence_N,
            "position": host(position_N).astype(np.int32),
            "token_id": token_N,
            **{name: host(values) for name, values in statistics.items()},
        }

    def _trained(self, scoring: Scoring, loss_N: Any, mask_BK: torch.Tensor) -> Any:
        """The losses as they are trained on: with their weights, if there are any."""
        if self.weighted is None or scoring.table != "rollout":
            return loss_N
        weight_BK = self.weighted.weight_of(scoring.inputs, mask_BK)
        return loss_N if weight_BK is None else loss_N * host(weight_BK[mask_BK])

    def _compare(
        self, scoring: Scoring, loss_N: Any, arguments: Mapping[str, Any], result: Any
    ) -> None:
        """Hold the recorded losses against what the trainer itself computed from them."""
        rows = len(loss_N)
        denominator = arguments.get("num_items_in_batch")
        denominator = max(rows, 1) if denominator is None else float(denominator)
        trained = float(result[0].detach()) * denominator
        self.compare(
            scoring, total(loss_N), trained, rows, excused=lambda: _masked_by_both(arguments)
        )


def _statistics(
    arguments: Mapping[str, Any],
    token_ids_BK: torch.Tensor,
    mask_BK: torch.Tensor,
    recorder: Recorder,
    alternatives: int = 0,
    sink: GradientSink | None = None,
) -> dict[str, torch.Tensor]:
    """`token_statistics` on the loss function's own arguments, rounded as TRL rounds them."""
    ends = any(name in recorder.columns for name in END_COLUMNS)
    device = mask_BK.device.type
    # Under autocast TRL projects operands rounded to the autocast type, into float32.
    rounded = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    student_hidden = arguments["student_hidden_states"].detach()
    teacher_hidden = arguments["teacher_hidden_states"].detach()
    student_dtype = rounded or student_hidden.dtype
    teacher_dtype = rounded or teacher_hidden.dtype
    heads = [
        arguments["student_lm_head_weight"],
        arguments["teacher_lm_head_weight"],
        arguments.get("student_lm_head_bias"),
        arguments.get("teacher_lm_head_bias"),
    ]
    with torch.no_grad(), torch.autocast(device, enabled=False):
        student_head, teacher_head, student_bias, teacher_bias = map(_whole, heads)
        statistics: dict[str, torch.Tensor] = token_statistics(
            token_ids=token_ids_BK,
            student_hidden=student_hidden.to(student_dtype),
            teacher_hidden=teacher_hidden.to(teacher_dtype),
            student_head=_rounded(student_head, student_dtype),
            teacher_head=_rounded(teacher_head, teacher_dtype),
            student_bias=student_bias,
            teacher_bias=teacher_bias,
            student_logit_scale=arguments.get("student_logit_scale", 1.0),
            teacher_logit_scale=arguments.get("teacher_logit_scale", 1.0),
            student_softcap=arguments.get("student_final_logit_softcapping"),
            teacher_softcap=arguments.get("teacher_final_logit_softcapping"),
            temperature=arguments.get("temperature", 1.0),
            mask=mask_BK,
            columns=("loss", *recorder.columns),
            terminal_ids=recorder.terminal_ids if ends else (),
            alternatives=alternatives,
            gradients=sink,
        )
    return statistics


def _masked_by_both(arguments: Mapping[str, Any]) -> bool:
    """Whether there are ids that the biases of both heads exclude (in this rank's part of them)."""
    masked = []
    for model in ("student", "teacher"):
        bias = arguments.get(f"{model}_lm_head_bias")
        if bias is None:
            return False
        masked.append((bias.to_local() if hasattr(bias, "to_local") else bias).isneginf())
    return bool((masked[0] & masked[1]).any())


def _whole(head: Any) -> Any:
    """FSDP2 heads are sharded tensors; every rank asks at the same call, as TRL itself does."""
    if head is None:
        return None
    head = head.detach()
    return head.full_tensor() if hasattr(head, "full_tensor") else head


def _rounded(head: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return head if head.dtype == dtype else head.to(dtype)
