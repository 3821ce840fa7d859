"""Attach a recorder to a trainer of TRL's distillation family, without a fork and without a trace.

::

    from rocktok.hooks import Recorder
    from rocktok.hooks.trl import attach

    with attach(trainer, Recorder("runs/mine/log", every=10)):
        trainer.train()
"""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from rocktok.errors import HookError
from rocktok.hooks.trl.families import family_of
from rocktok.hooks.trl.limits import fit_recorder
from rocktok.hooks.trl.weighting import (
    WeightsAttachment,
    attach_weights,
    attachment_of,
    check_tokens,
)
from rocktok.hooks.trl.wrapping import Wrapping

if TYPE_CHECKING:
    from rocktok.hooks.recorder import Recorder
    from rocktok.hooks.token_weights import TokenWeights
    from rocktok.hooks.trl.family import Family

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
    """Attach a recorder to a trainer of TRL's distillation family, which is picked by its class.

    `trl.DistillationTrainer`; of `trl.experimental` GKD, GOLD (models with the same tokens), SDFT,
    SDPO, IW-OPD, server and async distillation. docs/trainers.md says what each records, and how
    exactly.

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
        HookError: before training: the trainer is of another class, the version of TRL is unknown,
            what the recorder is asked for cannot be had of this trainer, or (from
            `trainer.train()`) the log belongs to another run.
    """
    for other in list(_all):
        # Training runs in no other place now: it broke off, and nothing has put TRL back.
        if other.recorder.running and not other.in_block:
            other.detach(final=False)
    family = _check(trainer, recorder, weights)
    # Needs torch and transformers: only where there is a trainer.
    from rocktok.hooks.trl.callback import RecordingCallback
    from rocktok.hooks.trl.reporting import Reporting

    observer = Reporting(trainer, recorder) if report else None
    capture = family.capture(recorder)
    weighted = None
    if weights is not None or recorder.live_weights is not None:
        weighted = family.weighted(recorder.weights_at)
        capture.weighted = weighted
    # The recorder's wrappers go around: it records the losses of all tokens, unweighted.
    wrapping = Wrapping(
        *(() if weighted is None else family.weighted_parts(weighted)),
        *family.parts(capture),
    )
    recorder.weights = weights
    callback = RecordingCallback(family, recorder, capture, wrapping, weighted)
    recorder.observer = observer
    return Attachment(trainer, recorder, callback, wrapping)


def _check(trainer: Any, recorder: Recorder, weights: TokenWeights | None) -> Family:
    """Refuse what cannot be recorded rightly."""
    family = family_of(trainer)
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
    family.check(recorder)
    fit_recorder(family, recorder)
    if weights is not None:
        if recorder.live_weights is not None:
            raise HookError(
                "attach: weights are given, and the recorder is to find some (live_weights); "
                "choose one"
            )
        check_tokens(family, weights)
    if earlier is not None:
        earlier.detach()
    return family
