"""Stand-in for KDFlow's registry of algorithms, with its `vanilla_kd` on given hidden states."""

from __future__ import annotations

from typing import Any

import torch

ALGO_DICT: dict[str, Any] = {}


def register_algorithm(name: str) -> Any:
    def decorator(cls: Any) -> Any:
        ALGO_DICT[name] = cls
        return cls

    return decorator


def reverse_kl(student_logits: Any, teacher_logits: Any, reduction: str, temperature: float) -> Any:
    p, q = (torch.log_softmax(z / temperature, -1) for z in (student_logits, teacher_logits))
    return (p.exp() * (p - q)).sum(-1)


@register_algorithm("vanilla_kd")
class VanillaKD:
    def __init__(
        self, strategy: Any, student_model: Any, teacher_lm_head: Any, **kwargs: Any
    ) -> None:
        self.strategy, self.args = strategy, strategy.args
        self.student, self.teacher_lm_head = student_model, teacher_lm_head
        temperature = self.args.kd.kd_temperature

        def loss_fn(student_logits: Any, teacher_logits: Any, reduction: str) -> Any:
            return reverse_kl(student_logits, teacher_logits, reduction, temperature)

        self.loss_fn = loss_fn

    def training_step(self, micro_batch: Any) -> Any:
        mask = micro_batch["stu_loss_mask"].bool()
        student = self.student(micro_batch["stu_input_ids"])[mask]
        teacher = self.teacher_lm_head(micro_batch["teacher_hiddens"])
        width = min(student.shape[-1], teacher.shape[-1])
        losses = self.loss_fn(student[:, :width], teacher[:, :width], reduction="none")
        return {"loss": losses.sum() / micro_batch["avg_micro_batch_token_num"]}
