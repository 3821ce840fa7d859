"""Record GKD and on-policy distillation of ms-swift, from a file given to `--external_plugins`.

::

    # plugin.py, for: swift rlhf --rlhf_type gkd … --external_plugins plugin.py
    from rocktok.hooks.ms_swift import record

    record("runs/mine/log", every=10)

Needs neither TRL of the version that `rocktok[trl]` asks for nor a fork of ms-swift.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import TYPE_CHECKING, Any

from rocktok.errors import HookError
from rocktok.hooks.calls import check_call, imported, version_of
from rocktok.hooks.recorder import Recorder

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

__all__ = ["record"]

SUPPORTED = "ms-swift 4.6"
TRAINER = "swift.rlhf_trainers.gkd_trainer"
LOSS = "swift.rlhf_trainers.gkd_loss"

#: What is called or wrapped, with the parameters that it is known to take.
_TRAINER_CALLS = {
    "compute_loss": ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
    "_compute_jsd_loss": ("self", "student_logits", "teacher_output", "labels"),
    "_compute_liger_loss": ("self", "unwrapped_student", "model_inputs", "forward_inputs"),
}
_LOSS_CALLS = {
    "gkd_loss": (
        "student_logits",
        "teacher_output",
        "labels",
        "beta",
        "temperature",
        "gather_fn",
        "log_softmax_fn",
        "kl_div_fn",
        "chunk_size",
    ),
    "_align_vocab": ("student_logits", "teacher_logits"),
    "extract_active": ("student_logits", "teacher_output", "labels"),
    "TeacherOutput": ("full_logits", "topk_logprobs", "topk_indices", "labels"),
}
#: Other modules that import `gkd_loss` by name: their logits are split over ranks.
_SPLIT = ("swift.megatron.trainers.gkd_trainer", "swift.ray.megatron.loss.gkd")
_REFUSAL = (
    "ms-swift's Megatron and Ray backends split logits over ranks, and their losses cannot be "
    "recorded; train with `swift rlhf`, or leave the plugin out and score checkpoints with "
    "`rocktok rescore`"
)
#: A trainer class that is wrapped has this; its trainers have one with what records them.
MARK = "_rocktok_recording"


def record(
    log_dir: str | os.PathLike[str],
    every: int = 10,
    columns: str | Iterable[str] = "default",
    *,
    student: str | None = None,
    teacher: str | None = None,
    supersede: bool = False,
    quiet: bool = False,
) -> None:
    """Record the rollouts of each GKD training that ms-swift starts in this process.

    Each `train()` is one attempt in the log. Batches of the student's own texts are recorded, those
    of the dataset (`lmbda` below 1) are not; of `every` optimizer steps the first that has such
    texts. Parameters and random state are the same as without recording.

    Args:
        log_dir: the log's directory or address; one run, all ranks, all attempts.
        every: optimizer steps between records.
        columns: statistics beside the loss, as in `rocktok.hooks.Recorder`. A preset is cut to what
            the teacher's answers allow.
        student, teacher: names for run.json, if ms-swift's names are not specific enough.
        supersede: start at step 0 over a finished run in the same directory.
        quiet: print nothing on stderr when recording starts and ends; warnings remain.

    Raises:
        HookError: this version of ms-swift is not known, or an argument is out of range. From the
            trainer's construction, or from its first loss: that loss cannot be recorded (Megatron,
            Ray, sequence parallelism, texts of the dataset alone).
    """
    recorder = Recorder(
        log_dir,
        every=every,
        fixed_sequences=0,
        columns=columns,
        student=student,
        teacher=teacher,
        supersede=supersede,
        quiet=quiet,
    )
    module, loss = imported(TRAINER, SUPPORTED), imported(LOSS, SUPPORTED)
    version = version_of("ms-swift")
    for name, parameters in _TRAINER_CALLS.items():
        check_call(module.GKDTrainer, name, parameters, version, SUPPORTED)
    for name, parameters in _LOSS_CALLS.items():
        check_call(loss, name, parameters, version, SUPPORTED)
    if MARK in vars(module.GKDTrainer):
        raise HookError("rocktok.hooks.ms_swift.record was called before; call it once")
    if any(name in sys.modules for name in _SPLIT):
        raise HookError(_REFUSAL)
    # Needs torch and transformers, which ms-swift has.
    from rocktok.hooks.ms_swift.recording import GkdRecording

    trainer = module.GKDTrainer
    setattr(trainer, MARK, None)
    trainer.__init__ = _attaching(trainer.__init__, lambda made: GkdRecording(made, recorder))
    trainer.compute_loss = _scoping(trainer.compute_loss)
    trainer._compute_jsd_loss = _observing(trainer._compute_jsd_loss)
    # The trainer's module has the function already; what imports it from now on is one of _SPLIT.
    loss.gkd_loss = _refusing(loss.gkd_loss)
    recorder.say(f"{version}: GKD will be recorded into {log_dir}")


def _refusing(original: Callable[..., Any]) -> Callable[..., Any]:
    """In the place of `gkd_loss`: a training that would record nothing ends at its first loss."""

    @wraps(original)
    def gkd_loss(*args: Any, **kwargs: Any) -> Any:
        raise HookError(_REFUSAL)

    return gkd_loss


def _attaching(
    original: Callable[..., None], recording: Callable[[Any], Any]
) -> Callable[..., None]:
    """Around the trainer's constructor. Raises `HookError` for one that cannot be recorded."""

    @wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        setattr(self, MARK, recording(self))

    return init


def _scoping(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around `compute_loss`, which knows the batch."""

    @wraps(original)
    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        recording = getattr(self, MARK)
        if recording is None or not recording.wants(inputs):
            return original(self, model, inputs, *args, **kwargs)
        with recording.scoring(inputs):
            return original(self, model, inputs, *args, **kwargs)

    return compute_loss


def _observing(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around `_compute_jsd_loss`, which has both models' logits."""

    @wraps(original)
    def compute_jsd_loss(self: Any, student_logits: Any, teacher_output: Any, labels: Any) -> Any:
        result = original(self, student_logits, teacher_output, labels)
        recording = getattr(self, MARK)
        if recording is not None:
            recording.observe_logits(student_logits, teacher_output, labels, result)
        return result

    return compute_jsd_loss
