"""Record on-policy distillation of verl: the losses of the actor, in its workers.

::

    export VERL_USE_EXTERNAL_MODULES=rocktok.hooks.verl
    export ROCKTOK_LOG=runs/mine/log ROCKTOK_EVERY=10

verl imports this module when it is imported itself, in every process, and to import it puts the
hook on. A version that is not known, or a setting that is wrong, is an error there and then.
"""

from __future__ import annotations

from functools import wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rocktok.hooks.calls import check_call, imported, version_of
from rocktok.hooks.environment import settings
from rocktok.hooks.notices import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from rocktok.hooks.verl.recording import ActorRecording

__all__ = ["install"]

SUPPORTED = "verl 0.9"
LOSSES = "verl.trainer.distillation.losses"
FSDP = "verl.trainer.distillation.fsdp.losses"
ENGINE = "verl.workers.engine.base"
UTILS = "verl.utils.tensordict_utils"

#: Estimators from the log-probabilities of the sampled tokens.
ESTIMATORS = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
#: The loss over the teacher's likeliest tokens, and the function that has the student's logits.
TOPK = "forward_kl_topk"
TOPK_FUNCTION = "compute_forward_kl_topk"

_LOSS = ("config", "distillation_config", "model_output", "data")
_CALLS: dict[str, dict[str, tuple[str, ...]]] = {
    ENGINE: {},
    LOSSES: {"no_padding_2_padding": ("tensor", "data")},
    UTILS: {"get_non_tensor_data": ("data", "key", "default")},
    FSDP: {
        TOPK_FUNCTION: (
            "student_logits",
            "teacher_topk_log_probs",
            "teacher_topk_ids",
            "config",
            "data_format",
        ),
        "slice_input_tensor": ("x", "dim", "padding", "group"),
        "get_ulysses_sequence_parallel_world_size": ("group",),
    },
}
_ENGINE_CALLS = {
    "train_batch": ("self", "data", "loss_function"),
    "is_mp_src_rank_with_outputs": ("self",),
    "get_data_parallel_rank": ("self",),
    "get_data_parallel_size": ("self",),
    "get_data_parallel_group": ("self",),
}

_installed = False


def install() -> None:
    """Put the hook on, once in a process.

    Raises:
        HookError: verl is missing or not as it is known, or the environment's settings are wrong.
    """
    global _installed
    if _installed:
        return
    wanted = settings()
    modules = {name: imported(name, SUPPORTED) for name in _CALLS}
    version = version_of("verl")
    for name, calls in _CALLS.items():
        for call, parameters in calls.items():
            check_call(modules[name], call, parameters, version, SUPPORTED)
    for call, parameters in _ENGINE_CALLS.items():
        check_call(modules[ENGINE].BaseEngine, call, parameters, version, SUPPORTED)
    registry = modules[LOSSES].DISTILLATION_LOSS_REGISTRY
    for name in (*ESTIMATORS, TOPK):
        losses = SimpleNamespace(__name__="DISTILLATION_LOSS_REGISTRY", **registry)
        check_call(losses, name, _LOSS, version, SUPPORTED)
    # Needs torch, which verl has.
    from rocktok.hooks.verl.recording import ActorRecording

    recording = ActorRecording(
        wanted,
        response_part=modules[LOSSES].no_padding_2_padding,
        setting=modules[UTILS].get_non_tensor_data,
        parts=modules[FSDP],
    )
    for name in (*ESTIMATORS, TOPK):
        registry[name] = _observed(registry[name], recording)
    engine = modules[ENGINE].BaseEngine
    engine.train_batch = _step(engine.train_batch, recording)
    setattr(
        modules[FSDP], TOPK_FUNCTION, _bounded(getattr(modules[FSDP], TOPK_FUNCTION), recording)
    )
    _installed = True
    if not wanted.quiet:
        say(f"{version}: the actor's distillation will be recorded into {wanted.log}")


def _observed(original: Callable[..., Any], recording: ActorRecording) -> Callable[..., Any]:
    """Around a distillation loss, which has what the whole micro-batch gave."""

    @wraps(original)
    def loss(config: Any, distillation_config: Any, model_output: Any, data: Any) -> Any:
        result = original(
            config=config,
            distillation_config=distillation_config,
            model_output=model_output,
            data=data,
        )
        recording.observe(model_output, data)
        return result

    return loss


def _bounded(original: Callable[..., Any], recording: ActorRecording) -> Callable[..., Any]:
    """Around the top-k loss, where the student's logits are; its results travel with verl's."""

    @wraps(original)
    def compute_forward_kl_topk(
        student_logits: Any,
        teacher_topk_log_probs: Any,
        teacher_topk_ids: Any,
        config: Any,
        data_format: Any,
    ) -> Any:
        teacher = teacher_topk_log_probs, teacher_topk_ids
        outputs = original(student_logits, *teacher, config, data_format)
        return {**outputs, **recording.of_logits(student_logits, *teacher)}

    return compute_forward_kl_topk


def _step(original: Callable[..., Any], recording: ActorRecording) -> Callable[..., Any]:
    """Around an optimizer step of any model that verl trains."""

    @wraps(original)
    def train_batch(self: Any, data: Any, loss_function: Any) -> Any:
        with recording.step(self, data, loss_function):
            return original(self, data, loss_function)

    return train_batch


install()
