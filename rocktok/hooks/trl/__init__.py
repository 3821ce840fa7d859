"""Attach a recorder to TRL's `DistillationTrainer`, without a fork and without a trace.

::

    from rocktok.hooks import Recorder
    from rocktok.hooks.trl import attach

    with attach(trainer, Recorder("runs/mine/log", every=10)):
        trainer.train()
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rocktok.hooks.recorder import Recorder

_LOSS = "_chunked_divergence_loss"
_COMPUTE = "_compute_loss"
_GENERATE = "_generate_and_score_completions"

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
    _COMPUTE: ("self", "unwrapped_student", "inputs", "num_items_in_batch"),
    _GENERATE: ("self", "inputs"),
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

#: The trainer that is attached now; the loss function is a global of TRL's module.
_attached: Any = None


@contextmanager
def attach(trainer: Any, recorder: Recorder) -> Iterator[Recorder]:
    """Record the training of a `trl.DistillationTrainer` while the `with` block runs.

    Records the trainer's own rollouts every `recorder.every` steps, and scores kept texts every
    `recorder.fixed_every` (see `Recorder`). Evaluation is not recorded. Each `train()` is one
    attempt in the log. Final parameters and random state are what they are without it.

    On leaving, everything that was wrapped is as before, and a recorder that still runs is closed.

    Raises:
        HookError: before training starts: not such a trainer, no local teacher, a TRL whose calls
            are not known, or (from `trainer.train()`) a log that refuses this run.
    """
    global _attached
    module = _check(trainer, recorder)
    # Needs torch and transformers: only where there is a trainer.
    from rocktok.hooks.trl.callback import RecordingCallback
    from rocktok.hooks.trl.capture import Capture

    capture = Capture(trainer, recorder, inspect.signature(getattr(module, _LOSS)))
    callback = RecordingCallback(trainer, recorder, capture)
    failed = True
    with ExitStack() as undo:
        undo.callback(_release)
        _attached = trainer
        _wrap(undo, module, _LOSS, capture.loss)
        _wrap(undo, trainer, _GENERATE, capture.generate)
        _wrap(undo, trainer, _COMPUTE, capture.compute_loss)
        trainer.add_callback(callback)
        undo.callback(trainer.remove_callback, callback)
        undo.callback(lambda: recorder.close(final=not failed))
        yield recorder
        failed = False


def _release() -> None:
    global _attached
    _attached = None


def _wrap(undo: ExitStack, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Set owner.name to the wrapped original until `undo` runs."""
    own = vars(owner).get(name)
    wrapped = wrapper(getattr(owner, name))
    setattr(owner, name, wrapped)

    def restore() -> None:
        if vars(owner).get(name) is not wrapped:
            # Somebody wrapped it again and did not put it back; taking theirs away would be
            # worse than leaving ours inside: outside the `with` block it passes calls through.
            return
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)

    undo.callback(restore)


def _check(trainer: Any, recorder: Recorder) -> Any:
    """Refuse what cannot be recorded rightly; returns TRL's module."""
    try:
        from trl.trainer import distillation_trainer as module
    except ImportError as error:
        raise HookError(
            f"TRL's DistillationTrainer cannot be imported ({error}); install rocktok[trl]"
        ) from error
    if not isinstance(trainer, module.DistillationTrainer):
        raise HookError(
            f"attach: {type(trainer).__name__} is not trl.DistillationTrainer (nor a subclass)"
        )
    if _attached is not None:
        whose = "this trainer" if _attached is trainer else "another trainer"
        raise HookError(f"attach: a recorder is attached to {whose} already; leave its block first")
    if recorder.running:
        raise HookError("attach: the recorder runs already; give each trainer its own")
    _check_teacher(trainer)
    _check_calls(module, trainer)
    if trainer._is_vlm and recorder.fixed_sequences:
        raise HookError(
            "attach: kept texts cannot be scored for vision-language models (their images are "
            "not kept); use Recorder(fixed_sequences=0)"
        )
    return module


def _check_teacher(trainer: Any) -> None:
    if trainer.teacher_model is None:
        raise HookError(
            f"attach: {type(trainer).__name__} has no local teacher, so its losses are not exact; "
            "use trl.DistillationTrainer with a teacher_model"
        )


def _check_calls(module: Any, trainer: Any) -> None:
    import trl

    version = f"trl {trl.__version__}"
    loss = getattr(module, _LOSS, None)
    if loss is None:
        raise HookError(f"attach: {version} has no {module.__name__}.{_LOSS}; use trl 1.16")
    names = list(inspect.signature(loss).parameters)
    missing = [name for name in _LOSS_REQUIRED if name not in names]
    unknown = [name for name in names if name not in _LOSS_KNOWN]
    if missing or unknown:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        parts += [f"has the unknown {', '.join(unknown)}"] if unknown else []
        raise HookError(
            f"attach: {_LOSS} of {version} {' and '.join(parts)}; use trl 1.16 or a newer rocktok"
        )
    for name, expected in _METHODS.items():
        method = getattr(module.DistillationTrainer, name, None)
        found = tuple(inspect.signature(method).parameters) if method is not None else None
        if found != expected:
            raise HookError(
                f"attach: {name} of {version} takes {found or 'nothing: it is gone'}, not "
                f"{expected}; use trl 1.16 or a newer rocktok"
            )
    used = inspect.unwrap(module.DistillationTrainer._compute_loss).__code__.co_names
    absent = [name for name in _ATTRIBUTES if not hasattr(trainer, name)]
    if _LOSS not in used or absent:
        what = f"_compute_loss does not call {_LOSS}" if not absent else f"no {', '.join(absent)}"
        raise HookError(f"attach: {version}: {what}; use trl 1.16 or a newer rocktok")
