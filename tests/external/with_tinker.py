"""The hook around the real tinker-cookbook's functions, with a teacher that answers from a table.

The service needs a key, and some dependencies have no release for every Python: a module that is
missing is replaced by a stand-in, and named in what is printed. The two functions that the hook
wraps, and tinker's data types, are the packages' own.

Run by tests/external/run.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stand_ins import allow, named


class Teacher:
    """Answers with −0.1·(token + place), and None for the first token."""

    def compute_logprobs(self, prompt: Any) -> Any:
        async def answer() -> list[Any]:
            ids = prompt.to_ints()
            return [None, *(-0.1 * (token + i) for i, token in enumerate(ids) if i)]

        return SimpleNamespace(coroutine=answer)


def datum(tinker: Any, ids: list[int], mask: list[int]) -> Any:
    import torch

    def data(values: Any, dtype: Any) -> Any:
        return tinker.TensorData.from_torch(torch.tensor(values, dtype=dtype))

    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(ids[:-1]),
        loss_fn_inputs={
            "target_tokens": data(ids[1:], torch.int64),
            "logprobs": data([-0.01 * token for token in ids[1:]], torch.float32),
            "mask": data(mask, torch.float32),
            "advantages": data([0.0] * len(mask), torch.float32),
        },
    )


def main(log: Path) -> None:
    allow(
        "blobfile", "chz", "distro", "httpx_aiohttp", "neptune_scale", "sniffio", "termcolor",
        "tml_renderers", "wandb",
    )  # fmt: skip
    import numpy as np
    import tinker
    from tinker_cookbook.distillation import train_on_policy as module

    import rocktok
    from rocktok.hooks.tinker import record

    texts = [([5, 6, 7, 8, 1], [0, 0, 1, 1]), ([5, 9, 10, 11, 12], [1, 0, 0, 1])]
    data = [datum(tinker, ids, mask) for ids, mask in texts]
    # Around the two functions: how texts are assembled, and the service's training step.
    module.compute_trajectory_metrics = lambda *args: {}
    module.compute_advantages = lambda groups: None
    module.assemble_training_data = lambda *args: (data, [{"group_idx": 0}, {"group_idx": 0}])
    module.colorize_example = lambda *args, **kwargs: ""

    async def train_step(**kwargs: Any) -> Any:
        return []

    async def metrics(*args: Any) -> Any:
        return "client", {}

    module.train_step, module.compute_full_batch_metrics_and_get_sampling_client = (
        train_step,
        metrics,
    )
    config = SimpleNamespace(
        model_name="student", temperature=1.0, max_tokens=16, num_substeps=1, learning_rate=1e-4,
        loss_fn="importance_sampling", loss_fn_config=None, compute_post_kl=False,
        kl_penalty_coef=1.0, kl_discount_factor=0.0,
        dataset_configs=[SimpleNamespace(teacher_config=SimpleNamespace(base_model="big"))],
    )  # fmt: skip
    tokenizer = SimpleNamespace(
        eos_token_id=1, added_tokens_decoder={}, all_special_ids=[1], all_special_tokens=["<end>"],
        backend_tokenizer=None, get_vocab=lambda: {f"t{i}": i for i in range(40)},
    )  # fmt: skip

    async def steps() -> Any:
        return [
            (await module.do_train_step_and_get_sampling_client(
                config, i, None, None, None, tokenizer, [], [], [0], [Teacher()]))[1]
            for i in range(2)
        ]  # fmt: skip

    with record(log, every=1, quiet=True):
        kl = asyncio.run(steps())[0]["teacher_kl"]
    batches = list(rocktok.open(log).scan("rollout", ["token_id", "loss"]))
    rows = {n: np.concatenate([b.columns[n] for b in batches]) for n in batches[0].columns}
    assert rows["token_id"].tolist() == [8, 1, 9, 12] * 2, rows
    student = -0.01 * np.array([8, 1, 9, 12])
    teacher = -0.1 * np.array([8 + 3, 1 + 4, 9 + 1, 12 + 4])
    np.testing.assert_allclose(rows["loss"][:4], student - teacher, rtol=1e-5)
    assert abs(rows["loss"][:4].mean() - kl) < 1e-5, kl
    run = json.loads((log / "run.json").read_text())
    version = run["extra"]["tinker-cookbook"]
    print(f"tinker-cookbook {version}: mean of the losses = its teacher_kl {kl:.6f}{named()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
