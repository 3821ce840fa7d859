"""Stand-in for ms-swift 4.6.0's GKDTrainer on one process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from swift.rlhf_trainers.gkd_loss import TeacherOutput, gkd_loss


class GKDTrainer:
    def __init__(self, model: Any, teacher_model: Any = None, **options: Any) -> None:
        self.model, self.teacher_model = model, teacher_model
        self.beta = options.pop("beta", 1)
        self.temperature = options.pop("temperature", 1.0)
        self.lmbda = options.pop("lmbda", 1.0)
        self.gkd_logits_topk = options.pop("gkd_logits_topk", None)
        self.use_teacher_api = teacher_model is None
        self.use_liger_gkd_loss = options.pop("use_liger_kernel", False)
        self.padding_free = options.pop("padding_free", False)
        parallel = options.pop("sequence_parallel_size", 1)
        self.template = SimpleNamespace(
            tokenizer=options.pop("tokenizer"), sequence_parallel_size=parallel
        )
        self.args = SimpleNamespace(
            output_dir="out/run", max_completion_length=16, temperature=self.temperature
        )
        self.accelerator = SimpleNamespace(
            process_index=0, num_processes=1, unwrap_model=lambda model: model
        )
        self.state = SimpleNamespace(global_step=0, max_steps=0)
        self.callbacks: list[Any] = []
        self.cut = options.pop("use_logits_to_keep", False)
        assert not options
        if self.use_liger_gkd_loss:
            self.liger_jsd_loss = _FusedLoss()

    def add_callback(self, callback: Any) -> None:
        self.callbacks.append(callback)

    def _call(self, event: str, **control: Any) -> None:
        state = SimpleNamespace(should_save=False, **control)
        for callback in self.callbacks:
            getattr(callback, event)(self.args, self.state, state)

    def train(self, steps: list[list[Any]], start: int = 0) -> list[float]:
        """Each step is a list of micro-batches. Returns the losses."""
        self.state.global_step, self.state.max_steps = start, start + len(steps)
        self._call("on_train_begin")
        losses = []
        for step in steps:
            for inputs in step:
                losses.append(float(self.compute_loss(self.model, inputs).detach()))
            self.state.global_step += 1
            self._call("on_step_end")
        self._call("on_train_end")
        return losses

    def _compute_jsd_loss(self, student_logits: Any, teacher_output: Any, labels: Any) -> Any:
        shifted = torch.roll(labels, shifts=-1, dims=1)
        teacher_output.labels = torch.roll(teacher_output.labels, shifts=-1, dims=1)
        if self.gkd_logits_topk is not None and teacher_output.full_logits is not None:
            top = teacher_output.full_logits.topk(self.gkd_logits_topk)
            teacher_output = TeacherOutput(None, top.values, top.indices, teacher_output.labels)
        total, count = gkd_loss(
            student_logits, teacher_output, shifted, self.beta, self.temperature
        )
        return total / count

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        mine, theirs = inputs["model_inputs"], inputs["teacher_model_inputs"]
        if self.use_liger_gkd_loss:
            return self._compute_liger_loss(model, mine, mine)
        student = model(mine["input_ids"])
        if self.cut:
            # As `prepare_logits_to_keep` does: a suffix, and its labels in the place of the whole.
            first = int((mine["labels"] != -100).int().argmax(-1).min())
            mine["labels"] = mine["labels"][:, first - 1 :]
            student = student[:, first - 1 :]
        batch = inputs["gkd_batch"]
        if self.use_teacher_api:
            teacher = TeacherOutput(None, batch.teacher_topk_logprobs, batch.teacher_topk_indices)
        else:
            teacher = TeacherOutput(self.teacher_model(theirs["input_ids"]))
        teacher.labels = theirs["labels"]
        return self._compute_jsd_loss(student, teacher, mine["labels"])

    def _compute_liger_loss(
        self, unwrapped_student: Any, model_inputs: Any, forward_inputs: Any
    ) -> Any:
        ids, labels = model_inputs["input_ids"], model_inputs["labels"]
        kept = torch.where(labels != -100, ids, -100)[:, 1:]
        heads = self.model.get_output_embeddings(), self.teacher_model.get_output_embeddings()
        return self.liger_jsd_loss(
            student_input=self.model.hidden(ids)[:, :-1],
            student_weight=heads[0].weight,
            teacher_input=self.teacher_model.hidden(ids)[:, :-1],
            teacher_weight=heads[1].weight,
            true_labels=kept,
            student_bias=None,
            teacher_bias=None,
        )


class _FusedLoss(torch.nn.Module):
    """Stand-in for Liger's fused loss at beta 1 and temperature 1."""

    def forward(self, **given: Any) -> Any:
        mask = given["true_labels"] != -100
        p, q = (
            torch.log_softmax(given[f"{name}_input"] @ given[f"{name}_weight"].T, -1)[mask]
            for name in ("student", "teacher")
        )
        return (p.exp() * (p - q)).sum(-1).mean()
