"""Attach a recorder to TRL's `DistillationTrainer`, without a fork and without a trace.

::

    from rocktok.hooks import Recorder
    from rocktok.hooks.trl import attach

    with attach(trainer, Recorder("runs/mine/log", every=10)):
        trainer.train()
"""

from __future__ import annotations

import atexit
import inspect
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from rocktok.errors import HookError
from rocktok.hooks.trl.wrapping import Wrapping

if TYPE_CHECKING:
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


#: What may have to be detached before another is attached.
_all: WeakSet[Attachment] = WeakSet()


class Attachment:
    """A recorder on a trainer, until it is detached or its `with` block ends. See `attach`."""

    def __init__(self, trainer: Any, recorder: Recorder, callback: Any, wrapping: Wrapping) -> None:
        self.recorder = recorder
        self._trainer = trainer
        self._callback = callback
        self._wrapping = wrapping
        self._in_block = False
        self._attached = True
        callback.attachment = self
        trainer.add_callback(callback)
        _all.add(self)
        # The recorder alone: models of a trainer that is not used any more may go.
        atexit.register(recorder.warn_if_nothing, "the process ends")

    def __enter__(self) -> Recorder:
        self._in_block = True
        return self.recorder

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._in_block = False
        self.detach(final=kind is None)
        if kind is None:
            self.recorder.warn_if_nothing("the recorder's `with` block ended")

    @property
    def in_block(self) -> bool:
        """Whether a `with` block will end it."""
        return self._in_block

    def detach(self, final: bool = True) -> None:
        """Leave the trainer as it was before, and close a recorder that still runs.

        `final`: training has ended regularly.
        """
        if not self._attached:
            return
        self._attached = False
        self.recorder.close(final=final)
        self.recorder.observer = None
        self._trainer.remove_callback(self._callback)
        self._wrapping.unwrap()
        atexit.unregister(self.recorder.warn_if_nothing)


def attach(trainer: Any, recorder: Recorder, *, report: bool = False) -> Attachment:
    """Attach a recorder to a `trl.DistillationTrainer`.

    Recording ends with the block of a context manager, with `detach` of the result, or with the
    process.

    Records the trainer's own rollouts every `recorder.every` steps, and scores kept texts every
    `recorder.fixed_every` (see `Recorder`). Evaluation is not recorded. Each `train()` is one
    attempt in the log. The final parameters and the random state are the same as without recording.

    TRL's functions are wrapped while `train` runs, and restored after it. A block or a process
    that ends without a recorded step warns.

    Args:
        trainer: the trainer.
        recorder: what takes the rows into a log.
        report: whether a few numbers of the recorded steps go to what the trainer reports to
            (`report_to`), with its own metrics: see `rocktok.hooks.trl.reporting`.

    Raises:
        HookError: before training: the trainer is of another class or has no local teacher, the
            version of TRL is unknown, or (from `trainer.train()`) the log belongs to another run.
    """
    for other in list(_all):
        # Training runs in no other place now: it broke off, and nothing has put TRL back.
        if other.recorder.running and not other.in_block:
            other.detach(final=False)
    module = _check(trainer, recorder)
    # Needs torch and transformers: only where there is a trainer.
    from rocktok.hooks.trl.callback import RecordingCallback
    from rocktok.hooks.trl.capture import Capture
    from rocktok.hooks.trl.reporting import Reporting

    observer = Reporting(trainer, recorder) if report else None
    capture = Capture(trainer, recorder, inspect.signature(getattr(module, _LOSS)))
    wrapping = Wrapping(
        (module, _LOSS, capture.loss),
        (trainer, _GENERATE, capture.generate),
        (trainer, _COMPUTE, capture.compute_loss),
    )
    callback = RecordingCallback(trainer, recorder, capture, wrapping)
    recorder.observer = observer
    return Attachment(trainer, recorder, callback, wrapping)


def _attachment_of(trainer: Any) -> Attachment | None:
    callbacks = trainer.callback_handler.callbacks
    return next((c.attachment for c in callbacks if hasattr(c, "attachment")), None)


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
    earlier = _attachment_of(trainer)
    if earlier is not None and earlier.in_block:
        raise HookError("attach: this trainer already has a recorder; leave its block first")
    if recorder.running:
        raise HookError("attach: the recorder is already running; give each trainer its own")
    _check_teacher(trainer)
    _check_calls(module, trainer)
    if trainer._is_vlm and recorder.fixed_sequences:
        raise HookError(
            "attach: kept texts cannot be scored for vision-language models (their images are "
            "not kept); use Recorder(fixed_sequences=0)"
        )
    if recorder.fixed_at_start and recorder.fixed_sequences:
        _check_start(trainer)
    if earlier is not None:
        earlier.detach()
    return module


def _check_start(trainer: Any) -> None:
    from rocktok.hooks.trl.texts import why_not

    obstacle = why_not(trainer)
    if obstacle is not None:
        raise HookError(
            f"attach: kept text cannot be generated before training: {obstacle}; leave out "
            "fixed_at_start=True"
        )


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
                f"attach: {name} of {version} takes {found or 'nothing, as it is missing'}, not "
                f"{expected}; use trl 1.16 or a newer rocktok"
            )
    used = inspect.unwrap(module.DistillationTrainer._compute_loss).__code__.co_names
    absent = [name for name in _ATTRIBUTES if not hasattr(trainer, name)]
    if _LOSS not in used or absent:
        what = f"_compute_loss does not call {_LOSS}" if not absent else f"no {', '.join(absent)}"
        raise HookError(f"attach: {version}: {what}; use trl 1.16 or a newer rocktok")
