"""Weights on the target tokens of a TRL trainer: `attach_weights`, and what it refuses."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError
from rocktok.hooks.trl.checks import COMPUTE, LOSS, check_calls, check_teacher
from rocktok.hooks.trl.wrapping import Wrapping
from rocktok.hooks.vocabulary import vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable

    from rocktok.hooks.token_weights import TokenWeights
    from rocktok.hooks.trl.weighted_loss import Weighted, WeightedDistillation

_JSD = "generalized_jsd_loss"
_JSD_KNOWN = (
    "student_logits",
    "teacher_logits",
    "labels",
    "beta",
    "temperature",
    "reduction",
    "num_items_in_batch",
)


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

    For `trl.DistillationTrainer` and `trl.experimental.gkd.GKDTrainer`. With a recorder, give the
    weights to `attach(trainer, recorder, weights=…)` instead.

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
    if _is_distillation(trainer):
        from trl.trainer import distillation_trainer as module

        check_teacher(trainer)
        check_calls(module, trainer)
        check_tokens(trainer, weights)
        weighted = weighted_distillation(trainer, lambda step: weights)
        parts = distillation_parts(trainer, weighted)
        return WeightsAttachment(trainer, weights, weighted, Wrapping(*parts))
    from rocktok.hooks.trl.weighted_loss import WeightedGKD

    gkd = WeightedGKD(trainer, lambda step: weights, _gkd_signature(trainer))
    check_tokens(trainer, weights)
    return WeightsAttachment(trainer, weights, gkd, Wrapping((trainer, _JSD, gkd.loss)))


def weighted_distillation(
    trainer: Any, weights_at: Callable[[int], TokenWeights | None]
) -> WeightedDistillation:
    """The weighted loss of a `DistillationTrainer` whose calls are known."""
    from trl.trainer import distillation_trainer as module

    from rocktok.hooks.trl.weighted_loss import WeightedDistillation

    signature = inspect.signature(getattr(module, LOSS))
    return WeightedDistillation(trainer, weights_at, signature)


def distillation_parts(
    trainer: Any, weighted: WeightedDistillation
) -> tuple[tuple[Any, str, Callable[[Any], Any]], ...]:
    """What is wrapped for it. A recorder's wrappers go around these: they see all tokens."""
    from trl.trainer import distillation_trainer as module

    return (
        (module, LOSS, weighted.loss),
        (trainer, COMPUTE, weighted.compute_loss),
    )


def attachment_of(trainer: Any) -> Any:
    """The attachment of a recorder or of weights that a trainer has, if any."""
    callbacks = getattr(getattr(trainer, "callback_handler", None), "callbacks", ())
    return next((c.attachment for c in callbacks if hasattr(c, "attachment")), None)


def _is_distillation(trainer: Any) -> bool:
    try:
        from trl.trainer.distillation_trainer import DistillationTrainer
    except ImportError as error:
        raise HookError(f"TRL cannot be imported ({error}); install rocktok[trl]") from error
    return isinstance(trainer, DistillationTrainer)


def _gkd_signature(trainer: Any) -> inspect.Signature:
    """The signature of a `GKDTrainer`'s loss. Raises `HookError` for any other trainer."""
    import trl

    name, version = type(trainer).__name__, f"trl {trl.__version__}"
    try:
        from trl.experimental.gkd import GKDTrainer
    except ImportError:
        GKDTrainer = None
    if GKDTrainer is None or not isinstance(trainer, GKDTrainer):
        raise HookError(
            f"attach_weights: {name} of {version} has no per-token loss that can be weighted; use "
            "trl.DistillationTrainer or trl.experimental.gkd.GKDTrainer"
        )
    for method in ("compute_loss", _JSD):
        if getattr(type(trainer), method) is not getattr(GKDTrainer, method):
            raise HookError(
                f"attach_weights: {name} overrides {method}, so that its loss cannot be weighted; "
                "use GKDTrainer itself"
            )
    signature = inspect.signature(getattr(GKDTrainer, _JSD))
    names = tuple(signature.parameters)
    if names != _JSD_KNOWN:
        raise HookError(
            f"attach_weights: {_JSD} of {version} takes {names}, not {_JSD_KNOWN}; use trl 1.16 or "
            "a newer rocktok"
        )
    return signature


def check_tokens(trainer: Any, weights: TokenWeights) -> None:
    """Raise `HookError` for weights of token ids that are not those of a trainer."""
    config = trainer.accelerator.unwrap_model(trainer.model).config
    weights.check_vocabulary(int(config.get_text_config().vocab_size))
    if weights.token_texts:
        weights.check_texts(_texts(trainer))


def _texts(trainer: Any) -> dict[int, str]:
    """Text of each token id, as logs show it; none of a tokenizer that cannot list its tokens."""
    tokenizer = getattr(trainer, "_tokenizer", None) or trainer.processing_class
    try:
        rows = list(vocabulary(tokenizer))
    except Exception:  # a tokenizer of one's own may raise anything
        return {}
    return {token: raw.decode("utf-8", "backslashreplace") for token, _, raw in rows}
