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
from rocktok.hooks.trl.checks import COMPUTE, GENERATE, LOSS, check_calls, check_teacher
from rocktok.hooks.trl.weighting import (
    WeightsAttachment,
    attach_weights,
    attachment_of,
    check_tokens,
    distillation_parts,
    weighted_distillation,
)
from rocktok.hooks.trl.wrapping import Wrapping

if TYPE_CHECKING:
    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.token_weights import TokenWeights

__all__ = ["Attachment", "attach", "attach_weights"]

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


def attach(
    trainer: Any,
    recorder: Recorder,
    *,
    report: bool = False,
    weights: TokenWeights | None = None,
) -> Attachment:
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
        weights: weights of the target tokens in the trained loss: see `attach_weights`. What is
            recorded are the losses without weights.

    Raises:
        HookError: before training: the trainer is of another class or has no local teacher, the
            version of TRL is unknown, or (from `trainer.train()`) the log belongs to another run.
    """
    for other in list(_all):
        # Training runs in no other place now: it broke off, and nothing has put TRL back.
        if other.recorder.running and not other.in_block:
            other.detach(final=False)
    module = _check(trainer, recorder, weights)
    # Needs torch and transformers: only where there is a trainer.
    from rocktok.hooks.trl.callback import RecordingCallback
    from rocktok.hooks.trl.capture import Capture
    from rocktok.hooks.trl.reporting import Reporting

    observer = Reporting(trainer, recorder) if report else None
    capture = Capture(trainer, recorder, inspect.signature(getattr(module, LOSS)))
    weighted = None
    if weights is not None or recorder.live_weights is not None:
        weighted = weighted_distillation(trainer, recorder.weights_at)
        capture.weighted = weighted
    # The recorder's wrappers go around: it records the losses of all tokens, unweighted.
    wrapping = Wrapping(
        *(() if weighted is None else distillation_parts(trainer, weighted)),
        (module, LOSS, capture.loss),
        (trainer, GENERATE, capture.generate),
        (trainer, COMPUTE, capture.compute_loss),
    )
    recorder.weights = weights
    callback = RecordingCallback(trainer, recorder, capture, wrapping, weighted)
    recorder.observer = observer
    return Attachment(trainer, recorder, callback, wrapping)


def _check(trainer: Any, recorder: Recorder, weights: TokenWeights | None) -> Any:
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
    earlier = attachment_of(trainer)
    if isinstance(earlier, WeightsAttachment):
        raise HookError(
            "attach: this trainer has weights already; detach them, and give them here: "
            "attach(trainer, recorder, weights=…)"
        )
    if earlier is not None and earlier.in_block:
        raise HookError("attach: this trainer already has a recorder; leave its block first")
    if recorder.running:
        raise HookError("attach: the recorder is already running; give each trainer its own")
    check_teacher(trainer)
    check_calls(module, trainer)
    if trainer._is_vlm and recorder.fixed_sequences:
        raise HookError(
            "attach: kept texts cannot be scored for vision-language models (their images are "
            "not kept); use Recorder(fixed_sequences=0)"
        )
    if recorder.fixed_at_start and recorder.fixed_sequences:
        _check_start(trainer)
    if weights is not None:
        if recorder.live_weights is not None:
            raise HookError(
                "attach: weights are given, and the recorder is to find some (live_weights); "
                "choose one"
            )
        check_tokens(trainer, weights)
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
