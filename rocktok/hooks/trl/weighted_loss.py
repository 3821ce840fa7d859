"""Token weights in the losses of TRL's trainers, by linearity.

The trainers divide a sum over tokens by a number of tokens, so the weighted loss is that of the
tokens that are not selected plus λ times that of the selected ones, both divided by the number of
all. Each part drops the rows of the other before anything is projected to the vocabulary: with
λ = 0 a selected token costs no logits, and has a gradient of exactly 0. With λ = 1 the trainer's
own call is made as it stands.

Array suffixes: B sequences; T, K positions of completions; N rows; H hidden; V vocabulary.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

from rocktok.errors import HookError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rocktok.hooks.token_weights import TokenWeights

#: Where rows can be dropped at no cost: elsewhere (Neuron, XLA) each number of rows is compiled.
_COMPACTING = ("cpu", "cuda", "mps", "xpu")

#: The batch of the weighted trainer whose loss is being computed: others pass through.
_BATCH: ContextVar[Mapping[str, Any] | None] = ContextVar("rocktok_weighted_batch", default=None)


class Weighted:
    """What the weighted losses of all trainers have in common.

    Args:
        trainer: whose training is weighted; evaluation is not.
        weights_at: the weights at an optimizer step, None for none.
        signature: of the trainer's loss function, where its arguments are read.

    Attributes:
        calls: losses that were computed in training, weighted or not.
    """

    def __init__(
        self,
        trainer: Any,
        weights_at: Callable[[int], TokenWeights | None],
        signature: inspect.Signature | None,
    ) -> None:
        self.trainer, self.weights_at, self.signature = trainer, weights_at, signature
        self.calls = 0

    def now(self) -> TokenWeights | None:
        """The weights of the training step that runs, if they change anything."""
        if not self.trainer.model.training:
            return None
        self.calls += 1
        weights = self.weights_at(self.trainer.state.global_step)
        return None if weights is None or weights.weight == 1 else weights

    def weights_of(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
        """Weights of targets in the training step that runs, for comparison; None: all are 1."""
        weights = self.weights_at(self.trainer.state.global_step)
        return None if weights is None else weights.of(ids, mask)

    def _bound(self, args: Any, kwargs: Any) -> dict[str, Any]:
        assert self.signature is not None
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)


class WeightedDistillation(Weighted):
    """Wraps `_compute_loss` of a `DistillationTrainer`, and its module's loss function."""

    def compute_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `_compute_loss(unwrapped_student, inputs, num_items_in_batch)`."""

        def compute_loss(unwrapped_student: Any, inputs: Any, num_items_in_batch: Any) -> Any:
            with _batch(inputs):
                return original(unwrapped_student, inputs, num_items_in_batch)

        return compute_loss

    def loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around the module's `_chunked_divergence_loss`."""

        @wraps(original)
        def chunked_divergence_loss(*args: Any, **kwargs: Any) -> Any:
            inputs = _BATCH.get()
            weights = None if inputs is None else self.now()
            if inputs is None or weights is None:
                return original(*args, **kwargs)
            arguments = self._bound(args, kwargs)
            mask_BK = arguments["completion_mask"] != 0
            ids_BK = inputs["completion_ids"].to(mask_BK.device)
            return weighted_divergence(
                original, arguments, weights.selected(ids_BK, mask_BK), weights.weight
            )

        return chunked_divergence_loss

    def weight_of(self, inputs: Mapping[str, Any], mask_BK: torch.Tensor) -> torch.Tensor | None:
        """The weights of a training batch, for comparison with its loss; None: all are 1."""
        return self.weights_of(inputs["completion_ids"].to(mask_BK.device), mask_BK)


@contextmanager
def _batch(inputs: Mapping[str, Any]) -> Iterator[None]:
    token = _BATCH.set(inputs)
    try:
        yield
    finally:
        _BATCH.reset(token)


def weighted_divergence(
    original: Callable[..., Any],
    arguments: Mapping[str, Any],
    selected_BK: torch.Tensor,
    weight: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What TRL's `_chunked_divergence_loss` returns, with the weight λ on selected tokens.

    Every rank makes the same number of calls, whatever it selects, as sharded heads need. The sum
    of entropies and the number of tokens are those of the tokens that were projected: with λ = 0
    of those that are not selected.

    Args:
        original: that function. arguments: all of its arguments, by name.
        selected_BK: tokens with the weight λ. weight: λ.
    """
    mask_BK = arguments["completion_mask"] != 0
    selected_BK = selected_BK & mask_BK
    denominator = arguments.get("num_items_in_batch")
    if denominator is None:
        # What the function itself would divide by; a part of the tokens must not.
        denominator = mask_BK.sum().clamp(min=1)

    def part(rows_BK: torch.Tensor) -> Any:
        changed: dict[str, Any] = {"completion_mask": rows_BK}
        if rows_BK.device.type in _COMPACTING:
            for name in ("student_hidden_states", "teacher_hidden_states"):
                hidden_BKH = arguments[name]
                changed[name] = hidden_BKH[rows_BK.to(hidden_BKH.device)][None]
            changed["completion_mask"] = rows_BK[rows_BK][None]
        return original(**{**arguments, **changed, "num_items_in_batch": denominator})

    loss, entropy, count = part(mask_BK & ~selected_BK)
    if weight:
        more, more_entropy, more_count = part(selected_BK)
        loss, entropy = loss + weight * more, entropy + more_entropy
        count = count + more_count
    return loss, entropy, count


class WeightedJSD(Weighted):
    """Wraps `generalized_jsd_loss` of GKD and GOLD, which has full logits and labels."""

    def loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `generalized_jsd_loss(student_logits, teacher_logits, labels, …)`."""

        @wraps(original)
        def generalized_jsd_loss(*args: Any, **kwargs: Any) -> Any:
            weights = self.now()
            if weights is None:
                return original(*args, **kwargs)
            arguments = self._bound(args, kwargs)
            labels_BT = arguments["labels"]
            if labels_BT is None or arguments["reduction"] != "batchmean":
                raise HookError(
                    "attach_weights: this trainer calls generalized_jsd_loss without labels or "
                    "with another reduction than batchmean; its loss cannot be weighted"
                )
            mask_BT = labels_BT != IGNORED
            selected_BT = weights.selected(labels_BT, mask_BT)
            return weighted_jsd(original, arguments, selected_BT, weights.weight)

        return generalized_jsd_loss


class WeightedSelfDistillation(Weighted):
    """Wraps what gives SDFT and SDPO the loss of each token; each text's number of tokens stays."""

    def __init__(self, trainer: Any, weights_at: Callable[[int], TokenWeights | None]) -> None:
        super().__init__(trainer, weights_at, None)

    def loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `_compute_self_distillation_loss(model, inputs, distillation_logits)`."""

        def compute_self_distillation_loss(
            model: Any, inputs: Any, distillation_logits: Any
        ) -> Any:
            with _batch({"logits": distillation_logits}):
                return original(model, inputs, distillation_logits)

        return compute_self_distillation_loss

    def per_token(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around a function that gives (B, K) losses, one for each token."""

        signature = inspect.signature(original)

        @wraps(original)
        def per_token(*args: Any, **kwargs: Any) -> Any:
            batch = _BATCH.get()
            weights = None if batch is None else self.now()
            if batch is None or weights is None:
                return original(*args, **kwargs)
            logits = batch["logits"]
            selected_BK = weights.selected(logits.completion_ids, logits.loss_mask)
            if weights.weight:
                loss_BK = original(*args, **kwargs)
                return torch.where(selected_BK, weights.weight * loss_BK, loss_BK)
            # Left out before anything is computed: a loss times 0 may still be no number.
            arguments = signature.bind(*args, **kwargs).arguments
            left = {
                name: value[~selected_BK] if isinstance(value, torch.Tensor) else value
                for name, value in arguments.items()
            }
            loss_M = original(**left)
            return loss_M.new_zeros(selected_BK.shape).masked_scatter(~selected_BK, loss_M)

        return per_token


#: Label of a position that is not trained on.
IGNORED = -100


def weighted_jsd(
    original: Callable[..., Any],
    arguments: Mapping[str, Any],
    selected_BT: torch.Tensor,
    weight: float,
) -> torch.Tensor:
    """What TRL's `generalized_jsd_loss` returns, with the weight λ on selected tokens.

    Arguments as `weighted_divergence`. The logits of dropped rows are not copied.
    """
    mask_BT = arguments["labels"] != IGNORED
    denominator = arguments.get("num_items_in_batch")
    if denominator is None:
        denominator = mask_BT.sum().clamp_min(1)

    def part(rows_BT: torch.Tensor) -> Any:
        changed = {
            "student_logits": arguments["student_logits"][rows_BT],
            "teacher_logits": arguments["teacher_logits"][rows_BT],
            "labels": None,
            "num_items_in_batch": denominator,
        }
        return original(**{**arguments, **changed})

    loss: torch.Tensor = part(mask_BT & ~selected_BT)
    return loss + weight * part(mask_BT & selected_BT) if weight else loss
