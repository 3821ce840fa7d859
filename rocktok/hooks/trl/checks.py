"""Which TRL is known, what is used of its `DistillationTrainer`, and whether a version has it."""

from __future__ import annotations

import inspect
from typing import Any

from rocktok.errors import HookError

#: The TRL that all hooks of this package were run with. A version that has the same functions with
#: the same parameters is accepted; any other is refused before training.
TESTED_TRL = "1.16"
REMEDY = f"use trl {TESTED_TRL} or a newer rocktok"

LOSS = "_chunked_divergence_loss"
COMPUTE = "_compute_loss"
GENERATE = "_generate_and_score_completions"

#: Parameters of the loss function. One that is not listed may change what the loss means.
_LOSS_REQUIRED = (
    "student_hidden_states",
    "teacher_hidden_states",
    "student_lm_head_weight",
    "teacher_lm_head_weight",
    "completion_mask",
    "beta",
)
_LOSS_KNOWN = (
    *_LOSS_REQUIRED,
    "num_items_in_batch",
    "student_lm_head_bias",
    "teacher_lm_head_bias",
    "student_logit_scale",
    "teacher_logit_scale",
    "student_final_logit_softcapping",
    "teacher_final_logit_softcapping",
    "temperature",
)
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
    version = trl_version()
    loss = getattr(module, LOSS, None)
    if loss is None:
        raise HookError(f"attach: {version} has no {module.__name__}.{LOSS}; use trl {TESTED_TRL}")
    names = list(inspect.signature(loss).parameters)
    missing = [name for name in _LOSS_REQUIRED if name not in names]
    unknown = [name for name in names if name not in _LOSS_KNOWN]
    if missing or unknown:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has the unknown {', '.join(unknown)}"] if unknown else []
        raise HookError(f"attach: {LOSS} of {version} {' and '.join(parts)}; {REMEDY}")
    for name, expected in _METHODS.items():
        method = getattr(module.DistillationTrainer, name, None)
        found = tuple(inspect.signature(method).parameters) if method is not None else None
        if found != expected:
            raise HookError(
                f"attach: {name} of {version} takes {found or 'nothing, as it is missing'}, not "
                f"{expected}; {REMEDY}"
            )
    used = inspect.unwrap(module.DistillationTrainer._compute_loss).__code__.co_names
    absent = [name for name in _ATTRIBUTES if not hasattr(trainer, name)]
    if LOSS not in used or absent:
        what = f"_compute_loss does not call {LOSS}" if not absent else f"no {', '.join(absent)}"
        raise HookError(f"attach: {version}: {what}; {REMEDY}")
