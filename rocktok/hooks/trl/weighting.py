"""Weights on the target tokens of a TRL trainer: `attach_weights`, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError
from rocktok.hooks.trl.families import family_of
from rocktok.hooks.trl.wrapping import Wrapping
from rocktok.hooks.vocabulary import vocabulary

if TYPE_CHECKING:
    from rocktok.hooks.token_weights import TokenWeights
    from rocktok.hooks.trl.family import Family
    from rocktok.hooks.trl.weighted_loss import Weighted


class WeightsAttachment:
    """Weights on a trainer, until they are detached or their `with` block ends."""

    def __init__(
        self, trainer: Any, weights: TokenWeights, weighted: Weighted, wrapping: Wrapping
    ) -> None:
        from rocktok.hooks.trl.weighting_callback import WeightingCallback

        self.weights = weights
        self._trainer = trainer
        self._callback = WeightingCallback(self, weighted, wrapping)
        self._wrapping = wrapping
        trainer.add_callback(self._callback)

    def __enter__(self) -> TokenWeights:
        return self.weights

    def __exit__(self, *raised: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Leave the trainer as it was before."""
        self._trainer.remove_callback(self._callback)
        self._wrapping.unwrap()


def attach_weights(trainer: Any, weights: TokenWeights) -> WeightsAttachment:
    """Weight the target tokens of a trainer's loss, without a recorder.

    For `trl.DistillationTrainer`, and of `trl.experimental` GKD, GOLD (models with the same
    tokens), SDFT, SDPO and IW-OPD (a local teacher). With a recorder, give the weights to
    `attach(trainer, recorder, weights=…)` instead.

    In training the loss of a batch is Σ weight·loss over its tokens, divided by what the trainer
    divides by: numbers of tokens, on which weights have no influence. Evaluation is not weighted.
    With weight 1 training is bit for bit what it is without; with weight 0 the losses of selected
    tokens are not computed. The trainer's `entropy` is a mean over the tokens whose loss was.

    Weights last for the block of a context manager, or until `detach` of the result.

    Args:
        trainer: the trainer.
        weights: which tokens have which weight.

    Raises:
        HookError: the trainer's class has no per-token loss that is known, or the version of TRL is
            unknown; the trainer has weights or a recorder already; an id is outside the vocabulary.
    """
    earlier = attachment_of(trainer)
    if isinstance(earlier, WeightsAttachment):
        raise HookError("attach_weights: this trainer has weights already; detach them first")
    if earlier is not None:
        raise HookError(
            "attach_weights: this trainer has a recorder; give it the weights: attach(trainer, "
            "recorder, weights=…)"
        )
    family = family_of(trainer, where="attach_weights")
    weighted = family.weighted(lambda step: weights)
    check_tokens(family, weights)
    return WeightsAttachment(trainer, weights, weighted, Wrapping(*family.weighted_parts(weighted)))


def attachment_of(trainer: Any) -> Any:
    """The attachment of a recorder or of weights that a trainer has, if any."""
    callbacks = getattr(getattr(trainer, "callback_handler", None), "callbacks", ())
    return next((c.attachment for c in callbacks if hasattr(c, "attachment")), None)


def check_tokens(family: Family, weights: TokenWeights) -> None:
    """Raise `HookError` for weights of token ids that are not those of a trainer."""
    weights.check_vocabulary(int(family.student.config.get_text_config().vocab_size))
    if weights.token_texts:
        weights.check_texts(_texts(family.tokenizer))


def _texts(tokenizer: Any) -> dict[int, str]:
    """Text of each token id, as logs show it; none of a tokenizer that cannot list its tokens."""
    try:
        rows = list(vocabulary(tokenizer))
    except Exception:  # a tokenizer of one's own may raise anything
        return {}
    return {token: raw.decode("utf-8", "backslashreplace") for token, _, raw in rows}
