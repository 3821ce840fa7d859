"""The hook around the real KDFlow's `vanilla_kd`, on the CPU, in one process without Ray.

KDFlow is no package of a registry and needs accelerators: its algorithms are imported from a
checkout, its strategy and student are made here.

Run by tests/external/run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FOLDER, SOURCE = Path(sys.argv[1]), Path(sys.argv[2])
LOG = FOLDER / "log"
os.environ |= {
    "ROCKTOK_LOG": str(LOG),
    "ROCKTOK_EVERY": "1",
    # Its losses are compiled, which takes a compiler and gains nothing here.
    "TORCHDYNAMO_DISABLE": "1",
}
sys.path.insert(0, str(SOURCE))

import numpy as np
import torch
from kdflow.algorithms import ALGO_DICT

import rocktok
from rocktok.hooks.kdflow import NAME, register

WIDTH = 64
TEXTS = [([5, 6, 7], [8, 9, 2]), ([5, 6], [10, 11, 12, 13, 2])]


class Student(torch.nn.Module):
    """Hidden states from a table; the head is where KDFlow looks for it."""

    def __init__(self, seed: int, width: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = torch.nn.Embedding(WIDTH, 8)
        self.model = SimpleNamespace(lm_head=torch.nn.Linear(8, width, bias=False))
        self.tokenizer = SimpleNamespace(
            eos_token_id=2, added_tokens_decoder={}, all_special_ids=[2],
            all_special_tokens=["<end>"], backend_tokenizer=None,
            get_vocab=lambda: {f"t{i}": i for i in range(WIDTH)},
        )  # fmt: skip

    def forward(self, ids: Any, **more: Any) -> Any:
        return {"hidden_states": [self.table(ids) + self.table(ids.cumsum(-1) % WIDTH)]}


def main() -> None:
    args = SimpleNamespace(
        kd=SimpleNamespace(kd_temperature=2.0, kd_loss_fn="rkl", kd_ratio=1.0, jsd_beta=0.5,
                           skew_lambda=0.1, adaptive_alpha=0.5, hrl_topk=5),
        model=SimpleNamespace(student_name_or_path="small", teacher_name_or_path="big"),
        rollout=SimpleNamespace(temperature=1.0, top_p=1.0, generate_max_len=8),
    )  # fmt: skip
    strategy = SimpleNamespace(args=args, step=0, accumulated_gradient=1, ring_attn_rank=0,
                               ring_attn_group=None, world_size=1, sp_size=1,
                               get_rank=lambda: 0)  # fmt: skip
    student, teacher = Student(0, WIDTH), Student(1, WIDTH + 16)
    register()
    algorithm = ALGO_DICT[NAME](strategy, student, teacher.model.lm_head)
    width = max(len(p) + len(c) for p, c in TEXTS)
    ids = torch.zeros(len(TEXTS), width, dtype=torch.long)
    there, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(TEXTS):
        length = len(prompt) + len(completion)
        ids[row, :length], there[row, :length] = torch.tensor(prompt + completion), 1
        # As KDFlow's trainer builds it: from the prompt's last token to the one before the last.
        mask[row, len(prompt) - 1 : length - 1] = 1
    hiddens = teacher(ids)["hidden_states"][-1][mask.bool()].detach()
    batch = {"stu_input_ids": ids, "stu_attn_mask": there, "stu_loss_mask": mask,
             "tea_input_ids": ids, "tea_attn_mask": there, "tea_loss_mask": mask,
             "teacher_hiddens": hiddens, "avg_micro_batch_token_num": 1.0}  # fmt: skip
    loss = float(algorithm.training_step(batch)["loss"].detach())
    algorithm._recording._recorder.close()
    batches = list(rocktok.open(LOG).scan("rollout", ["token_id", "loss"]))
    rows = {n: np.concatenate([b.columns[n] for b in batches]) for n in batches[0].columns}
    assert rows["token_id"].tolist() == [t for _, c in TEXTS for t in c], rows
    difference = abs(float(rows["loss"].sum()) - loss)
    assert difference < 1e-4 * loss, (rows["loss"].sum(), loss)
    recorded = rows["loss"].sum()
    print(f"KDFlow ({SOURCE}): sum of the recorded losses {recorded:.6f}, its own {loss:.6f}")


if __name__ == "__main__":
    main()
