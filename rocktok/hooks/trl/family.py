"""What the recorder asks of a trainer, whatever its kind: one `Family` for each kind.

Nothing here imports TRL at the start, so that a family can be asked for without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import torch

    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.rollouts import Rollout
    from rocktok.hooks.trl.scoring import Capturing, Scoring
    from rocktok.hooks.trl.weighted_loss import Weighted

    #: Owner, name of its attribute, and what makes the wrapper of the original.
    Part = tuple[Any, str, Callable[[Any], Any]]


class Family(ABC):
    """One kind of trainer.

    Attributes:
        exactness: how the recorded `loss` is computed: see `rocktok.schema.EXACTNESS`.
        columns: statistics beside the loss that it can have; None: all.
        with_domain: whether its batches keep the data's `domain`.
        reads_heads: whether the recorder multiplies with the output heads itself.
    """

    exactness = "exact"
    columns: frozenset[str] | None = None
    with_domain = False
    reads_heads = False

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    @property
    def name(self) -> str:
        """The trainer's class."""
        return type(self.trainer).__name__

    def names_domains(self, columns: Collection[str]) -> bool:
        """Whether texts have a domain; `columns`: of the training data."""
        return self.with_domain and "domain" in columns

    # --- before training -------------------------------------------------------------------------

    @abstractmethod
    def check(self, recorder: Recorder) -> None:
        """Raise `HookError` where this trainer, or this version of it, cannot be recorded."""

    def why_inexact(self) -> str:
        """Why losses are not exact."""
        return "the teacher is not in this process"

    def why_no_kept_text(self) -> str | None:
        """Why kept text cannot be scored; None where it can."""
        return None

    def why_not_at_start(self) -> str | None:
        """Why kept text cannot be generated before training; None where it can."""
        return f"{self.name} makes its texts batch by batch"

    def why_not_unasked(self) -> str | None:
        """As `why_not_at_start`, and why it should not be done where nobody has asked for it."""
        return self.why_not_at_start()

    @abstractmethod
    def capture(self, recorder: Recorder) -> Capturing:
        """What reads its losses."""

    @abstractmethod
    def parts(self, capture: Any) -> tuple[Part, ...]:
        """What is wrapped while it trains, so that the capture sees it."""

    def weighted(self, weights_at: Callable[[int], Any]) -> Weighted:
        """Its loss with weights on target tokens. Raises `HookError` where it has no such loss."""
        raise HookError(f"attach_weights: {self.why_not_weighted()}")

    def why_not_weighted(self) -> str | None:
        """Why its loss cannot be weighted; None where it can."""
        return f"the loss of {self.name} cannot be weighted"

    def weighted_parts(self, weighted: Any) -> tuple[Part, ...]:
        """What is wrapped for the weights. A recorder's wrappers go around these."""
        raise HookError(f"attach_weights: {self.why_not_weighted()}")

    # --- what the log says -----------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The student's tokenizer."""
        from transformers import ProcessorMixin

        known = getattr(self.trainer, "_tokenizer", None)
        if known is None:
            known = self.trainer.processing_class
        return known.tokenizer if isinstance(known, ProcessorMixin) else known

    @property
    def end_ids(self) -> Sequence[int]:
        """Token ids at which a completion of the trainer ends."""
        found = getattr(self.trainer, "eos_token_ids", None)
        if found is None:
            found = getattr(self.trainer.generation_config, "eos_token_id", None)
        if found is None:
            found = self.tokenizer.eos_token_id
        return list(found) if isinstance(found, list | tuple) else [found]

    @property
    def trains_reverse_kl(self) -> bool:
        """Whether the recorded loss is what the trainer trains on, but for its normalization."""
        return self.beta == 1

    @property
    def beta(self) -> float:
        """The trainer's own setting of the divergence that it trains on."""
        return float(self.trainer.beta)

    @property
    def loss_temperature(self) -> float:
        """By which both models' logits are divided in the loss."""
        return float(self.trainer.temperature)

    def about(self) -> Mapping[str, Any]:
        """What else run.json is to say of the trainer, as a part of `extra`."""
        return {}

    @property
    def teacher(self) -> Any | None:
        """The teacher's model, unwrapped; None where it is not in this process."""
        model = getattr(self.trainer, "teacher_model", None)
        return None if model is None else self.trainer.accelerator.unwrap_model(model)

    @property
    def student(self) -> Any:
        """The student's model, unwrapped."""
        return self.trainer.accelerator.unwrap_model(self.trainer.model)

    # --- kept text -------------------------------------------------------------------------------

    def inputs(self, rollouts: Sequence[Rollout]) -> dict[str, torch.Tensor]:
        """Kept texts as the trainer's own batches look, on the CPU. `HookError`: it has none."""
        raise HookError(f"attach: {self.why_no_kept_text()}")

    def forward(self, scoring: Scoring) -> None:
        """Compute the loss of kept texts as the trainer would."""
        self.trainer.compute_loss(self.trainer.model_wrapped, scoring.inputs)
