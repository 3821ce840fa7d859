"""The hook of tinker-cookbook, on a stand-in with its signatures and shifts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rocktok
from rocktok.errors import HookError, RocktokWarning
from tests.hooks.other_trainers import END, Tokenizer, read, run_of, sequences, use_stubs


@pytest.fixture
def cookbook(monkeypatch: pytest.MonkeyPatch) -> Any:
    use_stubs(monkeypatch, "tinker_cookbook")
    from tinker_cookbook.distillation import train_on_policy

    return train_on_policy


class Values(SimpleNamespace):
    def to_torch(self) -> Any:
        return torch.tensor(self.data)


class Teacher:
    """Answers with −0.1·(token + place), and None for the first token."""

    async def _answer(self, ids: list[int]) -> list[Any]:
        return [None, *(-0.1 * (token + i) for i, token in enumerate(ids) if i)]

    def compute_logprobs(self, ids: list[int]) -> Any:
        return SimpleNamespace(coroutine=lambda: self._answer(ids))


def datum(ids: list[int], mask: list[int]) -> Any:
    """`mask` is of the targets, which are the ids from the second on."""
    return SimpleNamespace(
        model_input=SimpleNamespace(to_ints=lambda: ids[:-1]),
        loss_fn_inputs={
            "target_tokens": Values(data=ids[1:]),
            "logprobs": Values(data=[-0.01 * token for token in ids[1:]]),
            "mask": Values(data=[float(m) for m in mask]),
            "advantages": Values(data=[0.0] * len(mask)),
        },
    )


def teacher(name: str) -> Any:
    return SimpleNamespace(teacher_config=SimpleNamespace(base_model=name))


def config(**options: Any) -> Any:
    base = {"model_name": "student", "temperature": 1.0, "max_tokens": 16, "num_substeps": 2,
            "kl_penalty_coef": 1.0, "kl_discount_factor": 0.0,
            "dataset_configs": [teacher("big")]}  # fmt: skip
    return SimpleNamespace(**{**base, **options})


def data() -> Any:
    """One turn, and two turns with an observation between."""
    return [datum([5, 6, 7, 8, END], [0, 0, 1, 1]), datum([5, 9, 10, 11, 12], [1, 0, 0, 1])]


def train(cookbook: Any, batches: int, **options: Any) -> Any:
    steps = [(data(), [0, 0]) for _ in range(batches)]
    return asyncio.run(cookbook.main(config(**options), steps, Tokenizer(), [Teacher()]))


def test_sampled_losses_are_those_of_the_sampled_tokens(cookbook: Any, tmp_path: Path) -> None:
    from rocktok.hooks.tinker import record

    without = train(cookbook, 3)
    original = cookbook.incorporate_kl_penalty
    with record(tmp_path, every=2, quiet=True):
        assert train(cookbook, 3) == without
    assert cookbook.incorporate_kl_penalty is original
    rows = read(tmp_path, columns=("student_logprob", "teacher_logprob"))
    # Iterations 0 and 2, of two optimizer steps each.
    assert rows["step"].tolist() == [0] * 4 + [4] * 4
    assert rows["token_id"][:4].tolist() == [8, END, 9, 12]
    assert rows["position"][:4].tolist() == [0, 1, 0, 3]
    student = -0.01 * np.array([8, END, 9, 12])
    teacher = -0.1 * np.array([8 + 3, END + 4, 9 + 1, 12 + 4])
    np.testing.assert_allclose(rows["student_logprob"][:4], student, rtol=1e-6)
    np.testing.assert_allclose(rows["teacher_logprob"][:4], teacher, rtol=1e-6)
    np.testing.assert_allclose(rows["loss"][:4], student - teacher, rtol=1e-5)
    assert rows["loss"][:4].mean() == pytest.approx(without[0]["teacher_kl"], rel=1e-5)
    first, second = sequences(tmp_path)[:2]
    assert first["prompt_token_ids"] == [5, 6, 7] and second["prompt_token_ids"] == [5]
    assert (first["num_tokens"], second["num_tokens"]) == (2, 4)
    assert (first["finish_reason"], second["finish_reason"]) == ("stop", "length")
    run = run_of(tmp_path)
    assert run["loss"]["exactness"] == "sampled"
    assert (run["student"], run["teacher"]) == ("student", "big")
    assert rocktok.open(tmp_path).warnings() == []


def test_several_teachers_are_told_apart_by_domain(cookbook: Any, tmp_path: Path) -> None:
    from rocktok.hooks.tinker import record

    two = [teacher(name) for name in "ab"]
    steps = [(data(), [0, 1])]
    with record(tmp_path, every=1, quiet=True):
        asyncio.run(cookbook.main(config(dataset_configs=two), steps, Tokenizer(), [Teacher()] * 2))
    assert [row["domain"] for row in sequences(tmp_path)] == ["dataset 0", "dataset 1"]
    assert run_of(tmp_path)["teacher"] == "a, b"


def test_an_answer_of_another_length_drops_the_step(cookbook: Any, tmp_path: Path) -> None:
    from rocktok.hooks.tinker import record

    class Short(Teacher):
        async def _answer(self, ids: list[int]) -> list[Any]:
            return [*await super()._answer(ids), -1.0, -1.0]

    # A stand-in that is as lenient as the broken service.
    async def lenient(data_D: Any, teacher_clients_D: Any, dataset_indices_D: Any,
                      kl_penalty_coef: float, kl_discount_factor: float) -> Any:  # fmt: skip
        for each, client in zip(data_D, teacher_clients_D, strict=True):
            await client.compute_logprobs(each.model_input.to_ints()).coroutine()
        return {}

    cookbook.incorporate_kl_penalty = lenient
    warned = pytest.warns(RocktokWarning, match="dropped|not recorded|no step")
    with warned, record(tmp_path, every=1, quiet=True):
        asyncio.run(cookbook.main(config(), [(data(), [0, 0])], Tokenizer(), [Short()]))
        del cookbook.incorporate_kl_penalty
    assert not (tmp_path / "rollout").exists()


def test_an_unknown_signature_is_an_error_before_training(cookbook: Any, tmp_path: Path) -> None:
    from rocktok.hooks.tinker import record

    async def changed(data_D: Any, teacher_clients_D: Any) -> Any:
        raise AssertionError

    cookbook.incorporate_kl_penalty = changed
    with (
        pytest.raises(HookError, match=r"incorporate_kl_penalty .* lacks dataset_indices_D"),
        record(tmp_path),
    ):
        raise AssertionError


def test_exact_columns_are_refused_by_name(cookbook: Any, tmp_path: Path) -> None:
    from rocktok.hooks.tinker import record

    with pytest.raises(HookError, match="jsd cannot be had"), record(tmp_path, columns=("jsd",)):
        raise AssertionError


def test_a_training_that_breaks_off_is_not_marked_as_finished(
    cookbook: Any, tmp_path: Path
) -> None:
    from rocktok.hooks.tinker import record

    with pytest.raises(KeyboardInterrupt), record(tmp_path, every=1, quiet=True):
        train(cookbook, 1)
        raise KeyboardInterrupt
    assert len(rocktok.open(tmp_path).steps("rollout")) == 1
    with record(tmp_path, every=1, quiet=True):
        train(cookbook, 1)
    with pytest.raises(HookError, match="finished run"), record(tmp_path, every=1, quiet=True):
        train(cookbook, 1)
