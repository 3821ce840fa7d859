"""Token weights in the losses of IW-OPD.

A token's term is −c·log p(x), with c made of the log-probabilities of the whole text and taken as a
constant. To leave tokens out would change c of those after them. But the logits of a place enter
the term of their own token alone: λ times the gradient of these logits is the gradient of the
weighted sum, with every c as it is without weights.

Array suffixes: B sequences; T positions of completions; V vocabulary.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, cast

import torch

from rocktok.hooks.trl.weighted_loss import IGNORED, Weighted, WeightedJSD

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Mapping

    from rocktok.hooks.token_weights import TokenWeights


class WeightedIWOPD(WeightedJSD):
    """Wraps the three losses of an `IWOPDTrainer` with a local teacher.

    Args:
        trainer, weights_at: as of `Weighted`.
        jsd, sampled, top_1: signatures of the loss functions, without `self`.
    """

    def __init__(
        self,
        trainer: Any,
        weights_at: Callable[[int], TokenWeights | None],
        *,
        jsd: inspect.Signature,
        sampled: inspect.Signature,
        top_1: inspect.Signature,
    ) -> None:
        super().__init__(trainer, weights_at, jsd)
        self._sampled = Weighted(trainer, weights_at, sampled)
        self._top_1 = Weighted(trainer, weights_at, top_1)

    def sampled_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `_compute_iw_opd_loss`."""

        @wraps(original)
        def compute_iw_opd_loss(*args: Any, **kwargs: Any) -> Any:
            weights = self.now()
            if weights is None:
                return original(*args, **kwargs)
            arguments = self._sampled._bound(args, kwargs)
            labels_BT = arguments["labels"]
            weight_BT = weights.of(labels_BT, labels_BT != IGNORED)
            return weighted_sampled(original, arguments, weight_BT, self.trainer)

        return compute_iw_opd_loss

    def top_1_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Around `_compute_local_sparse_top_1_divergence_loss`."""

        @wraps(original)
        def compute_top_1_loss(*args: Any, **kwargs: Any) -> Any:
            weights = self.now()
            if weights is None:
                return original(*args, **kwargs)
            arguments = self._top_1._bound(args, kwargs)
            labels_BT = arguments["labels"]
            mask_BT = labels_BT != IGNORED
            selected_BT = weights.selected(labels_BT, mask_BT)
            denominator = arguments["num_items_in_batch"]
            if denominator is None:
                denominator = mask_BT.sum().clamp_min(1)

            def part(rows_BT: torch.Tensor) -> Any:
                changed = {
                    "labels": labels_BT.masked_fill(~rows_BT, IGNORED),
                    "num_items_in_batch": denominator,
                }
                return original(**{**arguments, **changed})

            loss = part(mask_BT & ~selected_BT)
            return loss + weights.weight * part(mask_BT & selected_BT) if weights.weight else loss

        return compute_top_1_loss


def weighted_sampled(
    original: Callable[..., Any],
    arguments: Mapping[str, Any],
    weight_BT: torch.Tensor,
    trainer: Any,
) -> torch.Tensor:
    """What TRL's `_compute_iw_opd_loss` returns, with a weight on each token's term.

    Args:
        original: that function. arguments: all of its arguments, by name.
        weight_BT: weights, 1 where nothing is trained.
        trainer: whose temperature, γ and ε count.
    """
    logits_BTV = arguments["student_logits"]
    scaled_BTV = _Scaled.apply(logits_BTV, weight_BT)  # type: ignore[no-untyped-call]
    plain = original(**{**arguments, "student_logits": scaled_BTV})
    with torch.no_grad():
        term_BT = sampled_terms(arguments, trainer)
        # Left out, not multiplied by 0: a term may be no number.
        term_BT = torch.where(weight_BT == 0, torch.zeros_like(term_BT), weight_BT * term_BT)
        denominator = arguments["num_items_in_batch"]
        if denominator is None:
            denominator = (arguments["labels"] != IGNORED).sum().clamp_min(1)
        value = term_BT.sum() / denominator
    # The value of the weighted sum, with the gradient that its logits have by `_Scaled`.
    return cast(torch.Tensor, value + (plain - plain.detach()))


def sampled_terms(arguments: Mapping[str, Any], trainer: Any) -> torch.Tensor:
    """(B, T) terms of IW-OPD's loss, 0 where nothing is trained: arXiv 2606.22600.

    −log p(x)·w·a with a = log q(x) − log p′(x), p′ the student that sampled the text, and
    w = 1 + γ·(1 − Σ|a| before it ÷ Σ|a| of its text).
    """
    mask_BT = arguments["labels"] != IGNORED
    ids_BT1 = arguments["completion_tokens"].unsqueeze(-1)
    # Text by text: the logits of all, once more, may not fit.
    logp_BT = torch.stack(
        [
            (row_TV / trainer.temperature).log_softmax(-1).gather(-1, ids_T1).squeeze(-1)
            for row_TV, ids_T1 in zip(arguments["student_logits"], ids_BT1, strict=True)
        ]
    )
    sampled_BT = arguments["rollout_logprobs"]
    sampled_BT = logp_BT if sampled_BT is None else sampled_BT
    gap_BT = arguments["teacher_actual_logprobs"] - sampled_BT
    gap_BT = torch.where(mask_BT, gap_BT, torch.zeros_like(gap_BT))
    size_BT = gap_BT.abs()
    before_BT = size_BT.cumsum(1) - size_BT
    all_B1 = size_BT.sum(1, keepdim=True).clamp_min(float(trainer.iw_opd_epsilon))
    share_BT = 1 + float(trainer.iw_opd_gamma) * (1 - before_BT / all_B1)
    return torch.where(mask_BT, -logp_BT * share_BT * gap_BT, torch.zeros_like(gap_BT))


class _Scaled(torch.autograd.Function):
    """Logits as they are, with a gradient that is multiplied by a weight of each place."""

    @staticmethod
    def forward(ctx: Any, logits_BTV: torch.Tensor, weight_BT: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight_BT)
        return logits_BTV.view_as(logits_BTV)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, None]:
        weight_BT1 = ctx.saved_tensors[0].unsqueeze(-1).to(gradients[0].dtype)
        return (gradients[0] * weight_BT1).masked_fill(weight_BT1 == 0, 0.0), None
