"""DDP and FSDP2 on two processes (gloo, CPU): sums of both ranks are the trainer's.

One launch runs all scenes; each rank leaves what it saw below the hook in a JSON file.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import rocktok
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach
from tests.preloaded import run_ranks
from tests.trl_family import make_gkd
from tests.trl_models import make_model, make_trainer, manifest, read_sequences, read_table

pytestmark = pytest.mark.long

SCENES = ("ddp", "fsdp2", "gkd")
OPTIONS: dict[str, Any] = {
    "max_steps": 3,
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": 2,
}


def sharded(model: Any) -> Any:
    """FSDP2, as transformers does it for models that it shards when it loads them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def trainer_of(folder: Path, scene: str) -> Any:
    if scene == "gkd":
        return make_gkd(folder, lmbda=0.5, **OPTIONS)
    if scene == "ddp":
        return make_trainer(folder, **OPTIONS)
    student, teacher = sharded(make_model(1)), sharded(make_model(2, hidden=48))
    trainer = make_trainer(folder, student=student, teacher=teacher, **OPTIONS)
    # accelerate shards on accelerators alone, and would wrap these in DDP.
    trainer.is_distributed_loading_by_transformers = True
    trainer.model.config.distributed_config = SimpleNamespace(dp_replicate_size=1)
    return trainer


def spy(trainer: Any, scene: str, seen: dict[str, Any]) -> None:
    """Each training call's return × its denominator, below the hook, by step."""
    from trl.trainer import distillation_trainer

    sums: dict[int, float] = defaultdict(float)
    tokens: dict[int, int] = defaultdict(int)

    def note(loss: Any, count: int, items: Any) -> None:
        if loss.requires_grad:
            step = trainer.state.global_step
            sums[step] += float(loss.detach()) * float(count if items is None else items)
            tokens[step] += count

    owner = type(trainer) if scene == "gkd" else distillation_trainer
    name = "generalized_jsd_loss" if scene == "gkd" else "_chunked_divergence_loss"
    original = getattr(owner, name)

    @wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        items = kwargs["num_items_in_batch"]
        if scene == "gkd":
            note(result, int((kwargs["labels"] != -100).sum()), items)
        else:
            note(result[0], int(result[2]), items)
        return result

    setattr(owner, name, staticmethod(watched) if scene == "gkd" else watched)
    seen["sums"], seen["tokens"] = sums, tokens
    seen["restore"] = lambda: setattr(
        owner, name, staticmethod(original) if scene == "gkd" else original
    )


def scenes(folder: Path) -> None:
    """What each rank runs."""
    torch.distributed.init_process_group("gloo")
    for scene in SCENES:
        seen: dict[str, Any] = {}
        trainer = trainer_of(folder / scene, scene)
        spy(trainer, scene, seen)
        settings: dict[str, Any] = {"every": 1, "fixed_sequences": 5, "fixed_every": 2}
        with attach(trainer, Recorder(folder / scene / "log", quiet=True, **settings)):
            trainer.train()
        seen.pop("restore")()
        kinds = {type(p).__name__ for p in trainer.model.parameters()}
        found = {**seen, "ranks": trainer.accelerator.num_processes, "kinds": sorted(kinds)}
        rank = trainer.accelerator.process_index
        (folder / scene / f"rank-{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    run_ranks(2, "-m", "tests.hooks.test_trl_sharded", folder)
    return folder


def found(folder: Path, scene: str) -> list[dict[str, Any]]:
    return [json.loads((folder / scene / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("scene", SCENES)
def test_sums_of_both_ranks_are_the_trainers(folder: Path, scene: str) -> None:
    log = folder / scene / "log"
    ranks = found(folder, scene)
    assert all(rank["ranks"] == 2 for rank in ranks)
    rows = read_table(log, columns=["grad_norm"])
    beta_is_one = json.loads((log / "run.json").read_text())["loss"]["trained"]
    assert beta_is_one
    for step in range(3):
        mine = rows["step"] == step
        assert mine.sum() == sum(rank["tokens"][str(step)] for rank in ranks)
        trained = sum(rank["sums"][str(step)] for rank in ranks)
        assert rows["loss"][mine].sum(dtype=np.float64) == pytest.approx(trained, rel=1e-6)
    for rank in range(2):
        assert manifest(log, rank=rank)["mismatches"] == {}
        assert manifest(log, rank=rank)["dropped"] == []
        assert manifest(log, rank=rank)["final"]


@pytest.mark.parametrize("scene", SCENES)
def test_each_row_comes_once_from_one_rank(folder: Path, scene: str) -> None:
    log = folder / scene / "log"
    for table in ("rollout", "fixed"):
        keys, holders = [], defaultdict(set)
        for path in sorted((log / table).rglob("*.parquet")):
            shard = pq.read_table(path, columns=["step", "sequence_id", "position"])
            names = [shard[n].to_pylist() for n in ("step", "sequence_id", "position")]
            keys += list(zip(*names, strict=True))
            for step in set(names[0]):
                holders[step].add(int(path.name.split("-")[1]))
        assert len(keys) == len(set(keys))
        assert all(ranks == {0, 1} for ranks in holders.values())
    ids = [row["sequence_id"] for row in read_sequences(log)]
    assert len(ids) == len(set(ids))
    assert set(read_table(log)["sequence_id"].tolist()) <= set(ids)
    opened = rocktok.open(log)
    assert opened.incomplete_steps("rollout") == opened.incomplete_steps("fixed") == []
    assert opened.complete_steps("fixed")[-1] == 3


def test_sharded_models_give_the_losses_of_whole_ones(folder: Path) -> None:
    """The same weights and the same random numbers: the first step has the same texts."""
    assert "DTensor" in found(folder, "fsdp2")[0]["kinds"]
    assert found(folder, "ddp")[0]["kinds"] == ["Parameter"]
    for table in ("rollout", "fixed"):
        one, other = (
            read_table(folder / scene / "log", table, ["grad_norm", "teacher_entropy"])
            for scene in ("ddp", "fsdp2")
        )
        first = [rows["step"] == 0 for rows in (one, other)]
        assert np.array_equal(one["token_id"][first[0]], other["token_id"][first[1]])
        for name in ("loss", "grad_norm", "teacher_entropy"):
            np.testing.assert_allclose(
                one[name][first[0]], other[name][first[1]], rtol=1e-4, atol=1e-5
            )


if __name__ == "__main__":
    scenes(Path(sys.argv[1]))
