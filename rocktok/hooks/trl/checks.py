"""Which TRL is known, and whether a version has what the hooks use of it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError
from rocktok.hooks.calls import check_call

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

#: The TRL that all hooks of this package were run with. A version that has the same functions with
#: the same parameters is accepted; any other is refused before training.
TESTED_TRL = "1.16"
REMEDY = f"use trl {TESTED_TRL} or a newer rocktok"

LOSS = "_chunked_divergence_loss"
COMPUTE = "_compute_loss"
GENERATE = "_generate_and_score_completions"

#: Parameters of the loss function. One that is not listed may change what the loss means.
_LOSS_KNOWN = (
    "student_hidden_states",
    "teacher_hidden_states",
    "student_lm_head_weight",
    "teacher_lm_head_weight",
    "completion_mask",
    "beta",
    "num_items_in_batch",
    "student_lm_head_bias",
    "teacher_lm_head_bias",
    "student_logit_scale",
    "teacher_logit_scale",
    "student_final_logit_softcapping",
    "teacher_final_logit_softcapping",
    "temperature",
)
#: The first ones must be there.
_LOSS_OPTIONAL = _LOSS_KNOWN[6:]
_METHODS = {
    COMPUTE: ("self", "unwrapped_student", "inputs", "num_items_in_batch"),
    GENERATE: ("self", "inputs"),
}
#: What else is used of the trainer.
_ATTRIBUTES = (
    "_forward_redirection",
    "_tokenizer",
    "accelerator",
    "beta",
    "compute_loss_context_manager",
    "eos_token_ids",
    "temperature",
    "top_k",
    "top_p",
)


def trl_version() -> str:
    """The TRL that is installed, for messages."""
    import trl

    return f"trl {trl.__version__}"


def check_teacher(trainer: Any) -> None:
    """Raise `HookError` for a trainer whose teacher is not at hand."""
    if trainer.teacher_model is None:
        raise HookError(
            f"attach: {type(trainer).__name__} has no local teacher, so its losses are not exact; "
            "use trl.DistillationTrainer with a teacher_model"
        )


def check_calls(module: Any, trainer: Any) -> None:
    """Raise `HookError` where what is wrapped, or used, is not as it is known.

    `module`: TRL's module of `DistillationTrainer`.
    """
    signature_of(module, LOSS, _LOSS_KNOWN, optional=_LOSS_OPTIONAL)
    for name, known in _METHODS.items():
        signature_of(module.DistillationTrainer, name, known)
    calls(module.DistillationTrainer._compute_loss, LOSS)
    has(trainer, *_ATTRIBUTES)


def signature_of(
    owner: Any,
    name: str,
    known: Sequence[str],
    *,
    where: str = "attach",
    optional: Collection[str] = (),
) -> inspect.Signature:
    """The signature of a function of TRL. Raises `HookError` for one with other parameters.

    Arguments as of `check_call`; `where`: what is to be done, for the message.
    """
    supported = f"trl {TESTED_TRL}"
    function = check_call(owner, name, known, trl_version(), supported, optional, where=where)
    return inspect.signature(function)


def calls(function: Any, name: str, *, where: str = "attach") -> None:
    """Raise `HookError` for a function of TRL that does not call another by this name."""
    if name not in inspect.unwrap(function).__code__.co_names:
        what = getattr(function, "__qualname__", function)
        raise HookError(f"{where}: {trl_version()}: {what} does not call {name}; {REMEDY}")


def has(trainer: Any, *names: str, where: str = "attach") -> None:
    """Raise `HookError` for a trainer without attributes that are used of it."""
    absent = [name for name in names if not hasattr(trainer, name)]
    if absent:
        raise HookError(f"{where}: {trl_version()}: no {', '.join(absent)}; {REMEDY}")


def no_overrides(
    trainer: Any, known: type, names: Sequence[str], *, where: str = "attach_weights"
) -> None:
    """Raise `HookError` for a subclass whose loss is another than that of TRL's trainer."""
    for name in names:
        if getattr(type(trainer), name) is not getattr(known, name):
            raise HookError(
                f"{where}: {type(trainer).__name__} overrides {name}, so that its loss cannot be "
                f"weighted; use {known.__name__} itself"
            )
