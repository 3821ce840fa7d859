"""Stand-in for verl's registry of distillation losses."""

from __future__ import annotations

from typing import Any

import torch

DISTILLATION_LOSS_REGISTRY: dict[str, Any] = {}


def no_padding_2_padding(tensor: Any, data: Any) -> Any:
    """(rows, longest response) of values packed over prompts and responses, one to the left."""
    values = tensor.values() if tensor.is_nested else tensor
    if data["prompts"].is_nested:
        prompts, responses = (data[n].offsets().diff() for n in ("prompts", "responses"))
        longest = int(responses.max())
    else:
        there, width = data["attention_mask"], data["prompts"].shape[1]
        prompts, responses = there[:, :width].sum(1), there[:, width:].sum(1)
        longest = data["responses"].shape[1]
    ends = (prompts + responses).cumsum(0)
    result = torch.zeros(len(ends), longest, *values.shape[1:])
    for row, (count, end) in enumerate(zip(responses, ends, strict=True)):
        result[row, :count] = values[end - count - 1 : end - 1]
    return result


def _estimator(config: Any, distillation_config: Any, model_output: Any, data: Any) -> Any:
    student = no_padding_2_padding(model_output["log_probs"], data)
    teacher = no_padding_2_padding(data["teacher_logprobs"], data).squeeze(-1)
    ratio = teacher - student
    k1 = distillation_config.distillation_loss.loss_mode in ("kl", "k1")
    return (-ratio if k1 else ratio.exp() - ratio - 1), {}


def _forward_kl_topk(config: Any, distillation_config: Any, model_output: Any, data: Any) -> Any:
    return no_padding_2_padding(model_output["distillation_losses"], data), {}


for _name in ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3"):
    DISTILLATION_LOSS_REGISTRY[_name] = _estimator
DISTILLATION_LOSS_REGISTRY["forward_kl_topk"] = _forward_kl_topk


def distillation_ppo_loss(
    config: Any,
    distillation_config: Any,
    model_output: Any = None,
    data: Any = None,
    student_logits: Any = None,
    data_format: str = "thd",
) -> Any:
    if student_logits is not None:
        from verl.trainer.distillation.fsdp import losses

        return losses.compute_forward_kl_topk(
            student_logits=student_logits,
            teacher_topk_log_probs=data["teacher_logprobs"],
            teacher_topk_ids=data["teacher_ids"],
            config=distillation_config,
            data_format=data_format,
        )
    loss = DISTILLATION_LOSS_REGISTRY[distillation_config.distillation_loss.loss_mode]
    losses, metrics = loss(
        config=config, distillation_config=distillation_config, model_output=model_output, data=data
    )
    return losses.sum(), metrics
