"""The hook inside the real verl, on the CPU: its own import, configurations, registry, losses,
packing and `train_batch`. Its FSDP engine wants an accelerator, and Ray a cluster: the forward pass
is made here. What was recorded is held against the model itself.

Run by tests/external/run.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

FOLDER, MODE = Path(sys.argv[1]), sys.argv[2]
LOG = FOLDER / "log"
os.environ |= {
    "VERL_USE_EXTERNAL_MODULES": "rocktok.hooks.verl",
    "ROCKTOK_LOG": str(LOG),
    "ROCKTOK_EVERY": "1",
    "ROCKTOK_COLUMNS": "lenses",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}

from stand_ins import allow, named

# Declared by verl, and not needed by what is run here.
allow("ray", "wandb", "torchdata", "pylatexenc", "dill", "codetiming", "cachetools", "antlr4")

import numpy as np
import torch
import verl  # puts the hook on
from tensordict import TensorDict
from transformers import Qwen3Config, Qwen3ForCausalLM
from verl.trainer.distillation import distillation_ppo_loss
from verl.trainer.distillation.losses import DISTILLATION_LOSS_REGISTRY
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig, DistillationConfig, DistillationLossConfig
from verl.workers.engine.base import BaseEngine

import rocktok

WIDTH, TOPK = 320, 20
#: Prompt, response, and which of its tokens a tool wrote.
TEXTS = [([5, 6, 7], [8, 9, 2], []), ([5, 6], [10, 11, 12, 13, 14], [2])]


def make(seed: int) -> Any:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=WIDTH,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            initializer_range=0.3,
            max_position_embeddings=64,
            eos_token_id=2,
            bos_token_id=None,
        )
    ).float()


def nested(rows: list[Any]) -> Any:
    return torch.nested.as_nested_tensor([torch.as_tensor(r) for r in rows], layout=torch.jagged)


def batch(teacher: Any) -> Any:
    """What a worker is given: packed texts, and a served teacher's answers."""
    ids = [torch.tensor(p + r) for p, r, _ in TEXTS]
    with torch.no_grad():
        logprobs = [torch.log_softmax(teacher(each[None]).logits[0], -1) for each in ids]
    if MODE == "forward_kl_topk":
        tops = [z.topk(TOPK) for z in logprobs]
        values, tokens = [top.values for top in tops], [top.indices for top in tops]
    else:
        tokens = [torch.cat([each[1:], each[:1]])[:, None] for each in ids]
        values = [z.gather(1, t) for z, t in zip(logprobs, tokens, strict=True)]
    masks = [[int(i not in tool) for i in range(len(r))] for _, r, tool in TEXTS]
    data = TensorDict(
        {
            "input_ids": nested(ids),
            "prompts": nested([p for p, _, _ in TEXTS]),
            "responses": nested([r for _, r, _ in TEXTS]),
            "response_mask": nested(masks),
            "loss_mask": nested(masks),
            "old_log_probs": nested([[0.0] * len(r) for _, r, _ in TEXTS]),
            "advantages": nested([[0.0] * len(r) for _, r, _ in TEXTS]),
            "teacher_logprobs": nested(values),
            "teacher_ids": nested(tokens),
        },
        batch_size=[len(TEXTS)],
    )
    tu.assign_non_tensor(
        data, temperature=1.0, dp_size=1, batch_num_tokens=7, global_batch_size=len(TEXTS),
        distillation_use_topk=MODE == "forward_kl_topk", calculate_entropy=True,
        max_response_len=5,
    )  # fmt: skip
    return data


class Engine(BaseEngine):
    """verl's own `train_batch`, around a forward pass without FSDP."""

    def __init__(self, model: Any) -> None:
        self.module = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self.model_config = type("Config", (), {
            "path": "tiny", "tokenizer": None, "hf_config": model.config})()  # fmt: skip

    is_param_offload_enabled = is_optimizer_offload_enabled = False

    def optimizer_zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def optimizer_step(self) -> float:
        self.optimizer.step()
        return 0.0

    def forward_backward_batch(
        self, data: Any, loss_function: Any, forward_only: bool = False
    ) -> Any:
        ids = data["input_ids"]
        packed = torch.cat([self.module(each[None]).logits[0] for each in ids.unbind()])
        output = {}
        if MODE == "forward_kl_topk":
            for name, each in loss_function(student_logits=packed[None], data=data).items():
                output[name] = torch.nested.nested_tensor_from_jagged(each[0], ids.offsets())
        log_p = torch.log_softmax(packed, -1)
        following = torch.cat([torch.roll(each, -1) for each in ids.unbind()])
        values = {"log_probs": log_p.gather(1, following[:, None]).squeeze(1),
                  "entropy": -(log_p.exp() * log_p).sum(-1)}  # fmt: skip
        for name, each in values.items():
            output[name] = torch.nested.nested_tensor_from_jagged(each, ids.offsets())
        loss, metrics = loss_function(model_output=output, data=data)
        loss.backward()
        return {"metrics": metrics, "loss": float(loss.detach())}

    def is_mp_src_rank_with_outputs(self) -> bool:
        return True

    def get_data_parallel_rank(self) -> int:
        return 0

    def get_data_parallel_size(self) -> int:
        return 1

    def get_data_parallel_group(self) -> Any:
        return None


def configs() -> tuple[Any, Any]:
    """verl's own configurations, of which these losses read but a part."""
    loss = DistillationLossConfig(
        loss_mode=MODE, topk=TOPK, use_task_rewards=False,
        use_policy_gradient=MODE == "k1",
    )  # fmt: skip
    distillation = object.__new__(DistillationConfig)
    object.__setattr__(distillation, "distillation_loss", loss)
    teacher = type("Teacher", (), {"model_path": "tiny teacher"})()
    object.__setattr__(distillation, "teacher_models", {"one": teacher})
    actor = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, ppo_mini_batch_size=2
    )
    return actor, distillation


def expected(student: Any, teacher: Any) -> dict[str, Any]:
    """What the models themselves say of the scored tokens."""
    rows: dict[str, list[Any]] = {"token_id": [], "loss": [], "student_logprob": []}
    for prompt, response, tool in TEXTS:
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            log_p, log_q = (
                model(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
                for model in (student, teacher)
            )
        for j, token in enumerate(response):
            if j in tool:
                continue
            rows["token_id"].append(token)
            rows["student_logprob"].append(float(log_p[j, token]))
            if MODE != "forward_kl_topk":
                rows["loss"].append(float(log_p[j, token] - log_q[j, token]))
                continue
            top = log_q[j].topk(TOPK).indices
            p, q = log_p[j].exp(), log_q[j].exp()
            rest = 1 - p[top].sum(), 1 - q[top].sum() + 1e-6
            terms = (p[top] * (log_p[j, top] - log_q[j, top])).sum()
            rows["loss"].append(float(terms + rest[0] * (rest[0] / rest[1]).log()))
    return {name: np.array(values) for name, values in rows.items()}


def main() -> None:
    student, teacher = make(0), make(1).eval()
    actor, distillation = configs()
    loss = partial(distillation_ppo_loss, config=actor, distillation_config=distillation)
    engine = Engine(student)
    own = expected(student.eval(), teacher)
    for _ in range(2):
        engine.train_batch(batch(teacher), loss)
    cells = BaseEngine.train_batch.__closure__
    (recording,) = [c.cell_contents for c in cells if hasattr(c.cell_contents, "observe")]
    recording._recorder.close()
    opened = rocktok.open(LOG)
    assert [step.step for step in opened.steps("rollout")] == [0, 1]
    batches = list(opened.scan("rollout", ["token_id", "loss", "student_logprob"]))
    rows = {n: np.concatenate([b.columns[n] for b in batches]) for n in batches[0].columns}
    order = np.lexsort((rows["position"], rows["sequence_id"], rows["step"]))
    first = {name: values[order][:7] for name, values in rows.items()}
    assert first["token_id"].tolist() == own["token_id"].tolist()
    for name in ("student_logprob", "loss"):
        np.testing.assert_allclose(first[name], own[name], rtol=1e-3, atol=1e-4)
    worst = float(np.abs(first["loss"] - own["loss"]).max())
    run = json.loads((LOG / "run.json").read_text())
    assert run["loss"]["exactness"] == ("topk" if MODE == "forward_kl_topk" else "sampled")
    assert MODE in DISTILLATION_LOSS_REGISTRY
    held = f"losses within {worst:.1e} nats of the models' own"
    print(f"verl {verl.__version__}, {MODE}: 2 steps, {held}{named()}")


if __name__ == "__main__":
    main()
