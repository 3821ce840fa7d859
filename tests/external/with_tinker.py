"""The hook around the real tinker-cookbook's own functions, with a teacher that answers from a table.

The service needs a key, and some dependencies have no release for every Python: a module that is
missing is replaced by a stand-in, and named in what is printed. The two functions that the hook
wraps, and tinker's data types, are the packages' own.

Run by tests/external/run.
"""

from __future__ import annotations

import asyncio
import importlib.abc
import importlib.machinery
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

#: Nothing of these may be a stand-in.
REAL = {"tinker", "tinker_cookbook", "torch", "numpy", "rocktok", "pydantic"}
missing: list[str] = []


class StandIn(ModuleType):
    """Has every attribute; what is used as a decorator gives back what it decorates."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(side_effect=lambda *args, **kwargs: args[0] if args else MagicMock())


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Asked last: what no other finder has found is missing."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        top = name.partition(".")[0]
        if top in REAL or not asked_by_tinker():
            return None
        if top not in missing:
            missing.append(top)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        return StandIn(spec.name)

    def exec_module(self, module: Any) -> None:
        return None


def asked_by_tinker() -> bool:
    """Whether the import that is under way was asked for by tinker-cookbook, at some remove."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("importlib", __name__)) and "importlib" not in name:
            return name.partition(".")[0] in {"tinker", "tinker_cookbook", *missing}
        frame = frame.f_back
    return False


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
    sys.meta_path.append(Finder())
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

    module.train_step, module.compute_full_batch_metrics_and_get_sampling_client = train_step, metrics
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
    named = f"; stand-ins for {', '.join(sorted(missing))}" if missing else ""
    print(f"tinker-cookbook {version}: mean of the recorded losses = its teacher_kl {kl:.6f}{named}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
