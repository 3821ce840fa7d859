"""SDFT and SDPO: one model is student and teacher, which reads another prompt for the same text.

Texts are made some batches at a time, may be scored at several steps, and each goes with the prompt
that its teacher reads.

Array suffixes: B rows; K columns of completions; N scored positions.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rocktok.errors import HookError
from rocktok.hooks.background import describe
from rocktok.hooks.rollouts import Rollout, prompt_identity
from rocktok.hooks.trl.checks import calls, has, no_overrides, signature_of
from rocktok.hooks.trl.family import Family
from rocktok.hooks.trl.fixed import generation_inputs, pad
from rocktok.hooks.trl.logits import DIVERGENCES, LogitsCapture, Scored
from rocktok.hooks.trl.scoring import IDS_KEY, SCORING, Scoring, host, total

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.trl.family import Part
    from rocktok.hooks.trl.weighted_loss import WeightedSelfDistillation

LOSS = "_compute_self_distillation_loss"
PREPARE = "_prepare_training_batch"
#: Globals of the trainers' modules that give the loss of each token, and their parameters.
PER_TOKEN = {
    "compute_full_logit_self_distillation_loss": (
        "student_logits", "teacher_logits", "distillation_alpha"),
    "compute_topk_self_distillation_loss": (
        "student_logits", "teacher_logits", "distillation_topk", "distillation_alpha",
        "distillation_add_tail"),
    "compute_sampled_token_self_distillation_loss": (
        "student_logits", "teacher_logits", "completion_ids", "distillation_alpha"),
}  # fmt: skip

#: The per-token losses (B, K) of the call that runs.
_PER_TOKEN: ContextVar[list[torch.Tensor] | None] = ContextVar("rocktok_per_token", default=None)


class SelfDistillationCapture(LogitsCapture):
    """Wraps what makes texts, what computes their loss, and what gives the loss of each token."""

    def prepare(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `_prepare_training_batch(inputs)`: each text gets an id, as a row of the batch."""

        def prepare_training_batch(inputs: Any) -> Any:
            batch = original(inputs)
            if self._recorder.running and self._trainer.model.training:
                try:
                    self._note(inputs, batch)
                except Exception as error:
                    # The forward pass finds no ids then, and drops the step if it is recorded.
                    self._texts = {}
                    self._recorder.trouble("generation", f"cannot read it: {describe(error)}")
            return batch

        return prepare_training_batch

    def compute_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `compute_loss(model, inputs, …)`."""

        def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            step = self._trainer.state.global_step
            mine = SCORING.get() is None and self._trainer.model.training
            if not (mine and self._recorder.wants(step)):
                return original(model, inputs, *args, **kwargs)
            with self.scoring(Scoring("rollout", step, inputs)):
                return original(model, inputs, *args, **kwargs)

        return compute_loss

    def per_token(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around a function that gives the loss of each token."""

        @wraps(original)
        def per_token(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            kept = _PER_TOKEN.get()
            if kept is not None:
                kept.append(result.detach())
            return result

        return per_token

    def loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `_compute_self_distillation_loss(model, inputs, distillation_logits)`."""

        def compute_self_distillation_loss(
            model: Any, inputs: Any, distillation_logits: Any
        ) -> Any:
            scoring = SCORING.get()
            if scoring is None:
                return original(model, inputs, distillation_logits)
            kept: list[torch.Tensor] = []
            token = _PER_TOKEN.set(kept)
            try:
                result = original(model, inputs, distillation_logits)
            finally:
                _PER_TOKEN.reset(token)
            with self.observing(scoring) as call:
                if scoring.record:
                    mask_BK = distillation_logits.loss_mask != 0
                    call.rows = int(mask_BK.sum())
                    self._observe(scoring, distillation_logits, mask_BK, kept)
            return result

        return compute_self_distillation_loss

    def _observe(
        self, scoring: Scoring, logits: Any, mask_BK: torch.Tensor, kept: Sequence[torch.Tensor]
    ) -> None:
        args, temperature = self._trainer.args, float(self._trainer.temperature)
        columns_K = np.arange(mask_BK.shape[1])
        scored = Scored(
            student_logits=logits.student_logits,
            teacher_logits=logits.teacher_logits,
            token_ids=logits.completion_ids,
            mask=mask_BK,
            positions=np.broadcast_to(columns_K, tuple(mask_BK.shape)),
            temperature=temperature,
            divided=temperature,
        )
        also = _trained_columns(args)
        columns = self.columns(scoring, scored, also)
        if also and len(kept) == 1:
            trained_N = columns[also[0]]
            if len(also) == 2:
                # Its value is the log-ratio's part of the gradient times the log-probability.
                trained_N = columns[also[0]] * columns[also[1]]
            weight_N = self.weights_of(scoring, scored.token_ids, scored.mask)
            value = total(trained_N if weight_N is None else trained_N * weight_N)
            theirs = total(host(kept[0][mask_BK]))
            self.compare(scoring, value, theirs, len(trained_N), excused=scored.masked_by_both)
        self.record(scoring, columns, also)

    def _note(self, inputs: Sequence[Mapping[str, Any]], batch: dict[str, Any]) -> None:
        rollouts = self._rollouts(inputs, batch)
        self._texts = {rollout.sequence_id: rollout for rollout in rollouts}
        batch[IDS_KEY] = torch.tensor([r.sequence_id for r in rollouts], dtype=torch.int64)
        if self._recorder.fixed.collecting:
            self._candidates += rollouts

    def _rollouts(
        self, inputs: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]
    ) -> list[Rollout]:
        """The texts of a batch, each with the prompt that its teacher reads."""
        trainer = self._trainer
        columns = batch["completion_ids"].shape[1]
        names = ("prompt_ids", "prompt_mask", "completion_ids", "raw_completion_lengths",
                 "teacher_input_ids", "teacher_attention_mask")  # fmt: skip
        rows = [host(batch[name]) for name in names]
        scored_BK = _scored(trainer, batch)
        ids = self._recorder.new_sequence_ids(len(rows[0])).tolist()
        own = None
        if getattr(trainer, "generate_from_teacher", None) is not None:
            own = not trainer.generate_from_teacher
        made = []
        for number, sequence_id in enumerate(ids):
            prompt, there, completion, length, teacher, attended = (row[number] for row in rows)
            prompt_ids = prompt[there != 0].astype(np.int32)
            completion = completion[: int(length)].astype(np.int32)
            teacher_prompt = teacher[:-columns][attended[:-columns] != 0]
            ended = completion.size > 0 and int(completion[-1]) in trainer.eos_token_ids
            domain = inputs[number].get("domain")
            made.append(
                Rollout(
                    sequence_id=sequence_id,
                    step=trainer.state.global_step,
                    prompt_id=prompt_identity(prompt_ids),
                    prompt_token_ids=prompt_ids,
                    completion_token_ids=completion,
                    loss_mask=scored_BK[number, : int(length)].astype(np.int8),
                    finish_reason="stop" if ended else "length",
                    domain=None if domain is None else str(domain),
                    on_policy=own,
                    teacher_prompt_token_ids=teacher_prompt.astype(np.int32),
                )
            )
        return made


def _trained_columns(args: Any) -> tuple[str, ...]:
    """Statistics whose value, or product, is the loss that is trained; none where none is."""
    if args.distillation_mode == "sampled_token":
        return "log_ratio", "student_logprob"
    if args.distillation_mode == "full_logits":
        found = DIVERGENCES.get(float(args.distillation_alpha))
        return () if found is None else (found,)
    return ()


def _scored(trainer: Any, batch: Mapping[str, Any]) -> Any:
    """(B, K) which tokens the loss is over."""
    mask_BK = host(batch["completion_mask"]) != 0
    skipped = getattr(trainer, "num_loss_tokens_to_skip", 0)
    mask_BK = mask_BK & (np.arange(mask_BK.shape[1]) >= skipped)
    taught_B = batch.get("self_distillation_mask")
    return mask_BK if taught_B is None else mask_BK & (host(taught_B) != 0)[:, None]


class SDFT(Family):
    """`trl.experimental.sdft.SDFTTrainer` with its teacher in this process."""

    with_domain = True

    @property
    def kind(self) -> Any:
        """TRL's own class."""
        from trl.experimental.sdft import SDFTTrainer

        return SDFTTrainer

    @property
    def module(self) -> Any:
        """TRL's module of the trainer, whose globals give the loss of each token."""
        return sys.modules[self.kind.__module__]

    def check(self, recorder: Recorder) -> None:
        """Raise `HookError` for another version than is known, and for a teacher that is served."""
        self._check("attach")
        if self.trainer.temperature != 1 and recorder.gradients is not None:
            raise HookError(
                f"attach: gradients cannot be summed: {self.name} divides logits by its "
                f"temperature of {self.trainer.temperature:g} before its loss; use temperature=1, "
                "or leave out gradient_types and gradient_sketch"
            )

    def _check(self, where: str) -> None:
        has(self.trainer, "temperature", "eos_token_ids", "teacher_model", where=where)
        if self.trainer.use_teacher_server:
            raise HookError(
                f"{where}: {self.name} has use_teacher_server=True, so that its teacher's "
                "distributions are not in this process; use use_teacher_server=False"
            )
        signature_of(
            self.kind, LOSS, ("self", "model", "inputs", "distillation_logits"), where=where
        )
        signature_of(self.kind, PREPARE, ("self", "inputs"), where=where)
        calls(self.kind.compute_loss, LOSS, where=where)
        for name, known in PER_TOKEN.items():
            signature_of(self.module, name, known, where=where)
            calls(getattr(self.kind, LOSS), name, where=where)

    @property
    def beta(self) -> float:
        """Named alpha there; it means the same."""
        return float(self.trainer.args.distillation_alpha)

    @property
    def trains_reverse_kl(self) -> bool:
        """Only over the whole vocabulary, and without importance weights."""
        args, trainer = self.trainer.args, self.trainer
        every = args.steps_per_generation * trainer.num_iterations
        corrected = args.gradient_accumulation_steps % every and args.distillation_is_clip
        return args.distillation_mode == "full_logits" and self.beta == 1 and not corrected

    def about(self) -> dict[str, Any]:
        """What its teacher is, which may move, and which loss it trains."""
        args = self.trainer.args
        return {
            "teacher_model_kind": args.teacher_model_kind,
            "distillation_mode": args.distillation_mode,
            "distillation_topk": args.distillation_topk,
        }

    def capture(self, recorder: Recorder) -> SelfDistillationCapture:
        """What reads its losses."""
        return SelfDistillationCapture(self.trainer, recorder)

    def parts(self, capture: SelfDistillationCapture) -> tuple[Part, ...]:
        """What makes texts, what computes their loss, and what gives the loss of each token."""
        return (
            *((self.module, name, capture.per_token) for name in PER_TOKEN),
            (self.trainer, PREPARE, capture.prepare),
            (self.trainer, LOSS, capture.loss),
            (self.trainer, "compute_loss", capture.compute_loss),
        )

    def inputs(self, rollouts: Sequence[Rollout]) -> dict[str, torch.Tensor]:
        """Kept texts as its batches look, with the prompts that the teacher read."""
        padding = self.tokenizer.pad_token_id
        batch = generation_inputs(rollouts, padding)
        # Tokens that are not scored are left out by the trainer's own rule.
        del batch["tool_mask"]
        prompts = [
            r.prompt_token_ids if r.teacher_prompt_token_ids is None else r.teacher_prompt_token_ids
            for r in rollouts
        ]
        mask = pad([np.ones_like(p) for p in prompts], 0, left=True)
        for name, prompt, completion in (
            ("teacher_input_ids", pad(prompts, padding, left=True), "completion_ids"),
            ("teacher_attention_mask", mask, "completion_mask"),
        ):
            batch[name] = torch.cat([torch.from_numpy(prompt), batch[completion]], dim=1)
        return batch

    def why_not_weighted(self) -> str | None:
        """It can be."""
        return None

    def weighted(self, weights_at: Callable[[int], Any]) -> WeightedSelfDistillation:
        """Its loss with weights."""
        from rocktok.hooks.trl.weighted_loss import WeightedSelfDistillation

        self._check("attach_weights")
        no_overrides(self.trainer, self.kind, ("compute_loss", LOSS))
        return WeightedSelfDistillation(self.trainer, weights_at)

    def weighted_parts(self, weighted: WeightedSelfDistillation) -> tuple[Part, ...]:
        """The loss of each token, and which texts it is of."""
        return (
            *((self.module, name, weighted.per_token) for name in PER_TOKEN),
            (self.trainer, LOSS, weighted.loss),
        )


class SDPO(SDFT):
    """`trl.experimental.sdpo.SDPOTrainer`; texts without a teacher's prompt have no rows."""

    @property
    def kind(self) -> Any:
        """TRL's own class."""
        from trl.experimental.sdpo import SDPOTrainer

        return SDPOTrainer

    def _check(self, where: str) -> None:
        super()._check(where)
        if self.trainer.args.distillation_weight == 0:
            raise HookError(
                f"{where}: {self.name} has distillation_weight=0, so that it does not distil; give "
                "a weight above 0"
            )

    @property
    def trains_reverse_kl(self) -> bool:
        """Only without a policy loss beside it."""
        return super().trains_reverse_kl and self.trainer.args.distillation_weight == 1

    def about(self) -> dict[str, Any]:
        """As `SDFT`, and the weight beside the policy's loss."""
        weight = float(self.trainer.args.distillation_weight)
        return {**super().about(), "distillation_weight": weight}
