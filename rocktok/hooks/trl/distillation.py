"""`trl.DistillationTrainer`: hidden states and heads of both models in this process."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError
from rocktok.hooks.trl.checks import COMPUTE, GENERATE, LOSS, check_calls, check_teacher
from rocktok.hooks.trl.family import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.rollouts import Rollout
    from rocktok.hooks.trl.capture import Capture
    from rocktok.hooks.trl.family import Part
    from rocktok.hooks.trl.scoring import Scoring
    from rocktok.hooks.trl.weighted_loss import WeightedDistillation


class Distillation(Family):
    """`trl.DistillationTrainer`, and subclasses that compute their loss as it does."""

    with_domain = True
    reads_heads = True

    @property
    def module(self) -> Any:
        """TRL's module of the trainer, whose global its loss function is."""
        from trl.trainer import distillation_trainer

        return distillation_trainer

    def check(self, recorder: Recorder) -> None:
        """Raise `HookError` without a local teacher, and for another version than is known."""
        check_teacher(self.trainer)
        check_calls(self.module, self.trainer)
        refuse_images(self.trainer, recorder)

    def why_not_at_start(self) -> str | None:
        """Why kept text cannot be generated before training; None where it can."""
        from rocktok.hooks.trl.texts import why_not

        return why_not(self.trainer)

    def why_not_unasked(self) -> str | None:
        """As `why_not_at_start`, and vLLM, whose random state cannot be restored."""
        from rocktok.hooks.trl.texts import why_not_unasked

        return why_not_unasked(self.trainer)

    def capture(self, recorder: Recorder) -> Capture:
        """What reads its losses."""
        from rocktok.hooks.trl.capture import Capture

        return Capture(self.trainer, recorder, inspect.signature(getattr(self.module, LOSS)))

    def parts(self, capture: Capture) -> tuple[Part, ...]:
        """The loss, which batch it is of, and what was generated."""
        return (
            (self.module, LOSS, capture.loss),
            (self.trainer, GENERATE, capture.generate),
            (self.trainer, COMPUTE, capture.compute_loss),
        )

    def why_not_weighted(self) -> str | None:
        """It can be."""
        return None

    def weighted(self, weights_at: Callable[[int], Any]) -> WeightedDistillation:
        """Its loss with weights. Raises `HookError` where its calls are not known."""
        from rocktok.hooks.trl.weighted_loss import WeightedDistillation

        check_teacher(self.trainer)
        check_calls(self.module, self.trainer)
        signature = inspect.signature(getattr(self.module, LOSS))
        return WeightedDistillation(self.trainer, weights_at, signature)

    def weighted_parts(self, weighted: WeightedDistillation) -> tuple[Part, ...]:
        """The loss, and which batch it is of."""
        return (
            (self.module, LOSS, weighted.loss),
            (self.trainer, COMPUTE, weighted.compute_loss),
        )

    def inputs(self, rollouts: Sequence[Rollout]) -> dict[str, torch.Tensor]:
        """Kept texts as its batches look."""
        from rocktok.hooks.trl.fixed import generation_inputs

        return generation_inputs(rollouts, self.tokenizer.pad_token_id)

    def forward(self, scoring: Scoring) -> None:
        """As its `compute_loss` does it, without its metrics and their collectives."""
        trainer, student = self.trainer, self.student
        trainer._forward_redirection(
            trainer.model_wrapped, student, trainer._compute_loss, student, scoring.inputs, None
        )


def refuse_images(trainer: Any, recorder: Recorder) -> None:
    """Raise `HookError` where kept text would have images."""
    if trainer._is_vlm and recorder.fixed_sequences:
        raise HookError(
            "attach: kept texts cannot be scored for vision-language models (their images are "
            "not kept); use Recorder(fixed_sequences=0)"
        )
