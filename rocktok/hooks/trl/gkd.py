"""GKD and GOLD: full logits of both models, on batches of which some are the student's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError
from rocktok.hooks.trl.checks import calls, has, no_overrides, signature_of
from rocktok.hooks.trl.family import Family
from rocktok.hooks.trl.labelled import LabelledCapture, labelled_inputs

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Sequence

    import torch

    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.rollouts import Rollout
    from rocktok.hooks.trl.family import Part
    from rocktok.hooks.trl.weighted_loss import WeightedJSD

LOSS = "generalized_jsd_loss"
COMPUTE = ("self", "model", "inputs", "return_outputs", "num_items_in_batch")
_STEP = ("self", "model", "inputs", "num_items_in_batch")
_GENERATE = ("model", "inputs", "generation_config")
_JSD = ("student_logits", "teacher_logits", "labels", "beta", "temperature", "reduction")


class GKD(Family):
    """`trl.experimental.gkd.GKDTrainer`. Its loss knows no temperature: it is always 1."""

    #: Parameters of the loss function.
    known: tuple[str, ...] = (*_JSD, "num_items_in_batch")

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        self._origin = "data"

    @property
    def kind(self) -> Any:
        """TRL's own class."""
        from trl.experimental.gkd import GKDTrainer

        return GKDTrainer

    def check(self, recorder: Recorder) -> None:
        """Raise `HookError` for another version than is known."""
        self.signature()
        signature_of(self.kind, "compute_loss", COMPUTE)
        signature_of(self.kind, "training_step", _STEP)
        signature_of(self.kind, "generate_on_policy_outputs", _GENERATE)
        calls(self.kind.compute_loss, LOSS)
        calls(self.kind.training_step, "generate_on_policy_outputs")
        has(self.trainer, "teacher_model", "beta", "temperature", "lmbda", "generation_config")

    def signature(self, where: str = "attach") -> inspect.Signature:
        """That of the loss function."""
        return signature_of(self.kind, LOSS, self.known, where=where)

    @property
    def loss_temperature(self) -> float:
        """Always 1."""
        return 1.0

    def about(self) -> dict[str, Any]:
        """How its batches are mixed."""
        return {"lmbda": float(self.trainer.lmbda), "seq_kd": bool(self.trainer.seq_kd)}

    def on_policy(self) -> bool:
        """Whether the student wrote the batch whose loss is computed."""
        return self._origin == "student"

    def capture(self, recorder: Recorder) -> LabelledCapture:
        """What reads its losses."""
        return LabelledCapture(
            self.trainer,
            recorder,
            self.signature(),
            on_policy=self.on_policy,
            end_ids=self.end_ids,
            only_on_policy=float(self.trainer.lmbda) > 0,
        )

    def parts(self, capture: Any) -> tuple[Part, ...]:
        """What is wrapped: the loss, and where a batch's texts come from."""
        return (
            (self.trainer, LOSS, capture.loss),
            (self.trainer, "compute_loss", capture.compute_loss),
            (self.trainer, "training_step", self._training_step),
            (self.trainer, "generate_on_policy_outputs", self._generate),
        )

    def _training_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def training_step(*args: Any, **kwargs: Any) -> Any:
            self._origin = "data"
            return original(*args, **kwargs)

        return training_step

    def _generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def generate_on_policy_outputs(model: Any, *args: Any, **kwargs: Any) -> Any:
            self._origin = "teacher" if model is self.teacher else "student"
            return original(model, *args, **kwargs)

        return generate_on_policy_outputs

    def inputs(self, rollouts: Sequence[Rollout]) -> dict[str, torch.Tensor]:
        """Kept texts as its batches look."""
        return labelled_inputs(rollouts, self.tokenizer.pad_token_id)

    def why_not_weighted(self) -> str | None:
        """It can be."""
        return None

    def weighted(self, weights_at: Callable[[int], Any]) -> Any:
        """Its loss with weights."""
        from rocktok.hooks.trl.weighted_loss import WeightedJSD

        no_overrides(self.trainer, self.kind, ("compute_loss", LOSS))
        return WeightedJSD(self.trainer, weights_at, self.signature("attach_weights"))

    def weighted_parts(self, weighted: WeightedJSD) -> tuple[Part, ...]:
        """The loss function alone."""
        return ((self.trainer, LOSS, weighted.loss),)


class GOLD(GKD):
    """`trl.experimental.gold.GOLDTrainer`, where both models have the same tokens."""

    known = (*_JSD, "logits_are_probs", "num_items_in_batch")

    @property
    def kind(self) -> Any:
        """TRL's own class."""
        from trl.experimental.gold import GOLDTrainer

        return GOLDTrainer

    def check(self, recorder: Recorder) -> None:
        """Raise `HookError` for another version than is known, and for losses across tokenizers."""
        self._refuse_other_tokens("attach")
        self.signature()
        signature_of(self.kind, "compute_loss", COMPUTE)
        calls(self.kind.compute_loss, LOSS)
        has(self.trainer, "teacher_model", "beta", "temperature", "lmbda", "generation_config")
        has(self.trainer, "_buffered_on_policy", "_step")
        if self.trainer._is_vlm and recorder.fixed_sequences:
            raise HookError(
                "attach: kept texts cannot be scored for vision-language models (their images are "
                "not kept); use Recorder(fixed_sequences=0)"
            )

    def _refuse_other_tokens(self, where: str) -> None:
        if self.trainer.use_uld_loss and self.trainer.teacher_tokenizer is not None:
            raise HookError(
                f"{where}: {self.name} has use_uld_loss=True: its loss compares sorted or merged "
                "probabilities of two tokenizers, which is no reverse KL of a token; use "
                "use_uld_loss=False with a teacher that has the student's tokens"
            )

    @property
    def loss_temperature(self) -> float:
        """That at which it samples, too."""
        return float(self.trainer.temperature)

    def on_policy(self) -> bool:
        """Whether the student wrote the slice of the buffer whose loss is computed."""
        trainer = self.trainer
        flags = trainer._buffered_on_policy or []
        at = (trainer._step - 1) % trainer.args.gradient_accumulation_steps
        return at < len(flags) and bool(flags[at])

    def parts(self, capture: Any) -> tuple[Part, ...]:
        """The loss alone: which slices are the student's stands in the trainer's buffer."""
        return (
            (self.trainer, LOSS, capture.loss),
            (self.trainer, "compute_loss", capture.compute_loss),
        )

    def weighted(self, weights_at: Callable[[int], Any]) -> Any:
        """Its loss with weights."""
        self._refuse_other_tokens("attach_weights")
        return super().weighted(weights_at)
