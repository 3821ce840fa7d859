"""The hook of KDFlow, on a stand-in with its signatures: its mask marks what predicts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rocktok
from rocktok.errors import HookError
from tests.hooks.other_trainers import (
    END,
    TOKENS,
    Model,
    log_softmax,
    read,
    reverse_kl,
    run_of,
    sequences,
    use_stubs,
)

TEXTS = [([5, 6, 7], [8, 9, END]), ([5, 6], [10, 11, 12, 13, END])]
#: Recorders to close: KDFlow ends its workers without a word.
started: list[Any] = []


@pytest.fixture
def kdflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    use_stubs(monkeypatch, "kdflow")
    monkeypatch.setenv("ROCKTOK_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("ROCKTOK_EVERY", "1")
    monkeypatch.setenv("ROCKTOK_QUIET", "1")
    import kdflow.algorithms as algorithms

    yield algorithms
    for recorder in started:
        recorder.close(final=False)
    started.clear()


def strategy(accumulated: int = 1, **more: Any) -> Any:
    args = SimpleNamespace(
        kd=SimpleNamespace(kd_temperature=2.0, kd_loss_fn="rkl", kd_ratio=1.0),
        model=SimpleNamespace(student_name_or_path="small", teacher_name_or_path="big"),
        rollout=SimpleNamespace(temperature=1.0, top_p=1.0, generate_max_len=16),
    )
    base = {"args": args, "step": 0, "accumulated_gradient": accumulated, "ring_attn_rank": 0,
            "world_size": 1, "sp_size": 1, "get_rank": lambda: 0}  # fmt: skip
    return SimpleNamespace(**{**base, **more})


def micro_batch(teacher: Model, texts: Any = TEXTS) -> dict[str, Any]:
    """Right-padded, as KDFlow collates: the mask is True at each position that predicts a token of
    the response, and False at the last one.
    """
    width = max(len(p) + len(c) for p, c in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    there, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(texts):
        length = len(prompt) + len(completion)
        ids[row, :length] = torch.tensor(prompt + completion)
        there[row, :length] = 1
        mask[row, len(prompt) - 1 : length - 1] = 1
    hiddens = teacher.hidden(ids)[mask.bool()].detach()
    return {"stu_input_ids": ids, "stu_attn_mask": there, "stu_loss_mask": mask,
            "teacher_hiddens": hiddens, "avg_micro_batch_token_num": 1.0}  # fmt: skip


def make(kdflow: Any, teacher: Model, plan: Any = None, student: Any = None) -> Any:
    from rocktok.hooks.kdflow import NAME, register

    register()
    student = Model(1) if student is None else student
    return kdflow.ALGO_DICT[NAME](plan or strategy(), student, teacher.head, student_tokenizer=None)


def run_step(algorithm: Any, batches: list[Any]) -> list[float]:
    losses = []
    for each in batches:
        losses.append(float(algorithm.training_step(each)["loss"].detach()))
        plan = algorithm.strategy
        plan.step = (plan.step + 1) % plan.accumulated_gradient
    recorder = getattr(getattr(algorithm, "_recording", None), "_recorder", None)
    if recorder is not None:
        started.append(recorder)
        recorder.sync()
    return losses


def expected(student: Model, teacher: Model, width: int = TOKENS) -> Any:
    rows: tuple[list[Any], list[Any]] = ([], [])
    for prompt, completion in TEXTS:
        ids = torch.tensor([prompt + completion])
        for model, found in zip((student, teacher), rows, strict=True):
            z = model(ids)[0, len(prompt) - 1 : -1, :width].detach().double().numpy() / 2
            found.append(z)
    return tuple(np.concatenate(found) for found in rows)


@pytest.mark.parametrize("more", [0, 8])
def test_losses_are_those_of_the_tokens_that_are_predicted(
    kdflow: Any, tmp_path: Path, more: int
) -> None:
    """Of the wider teacher, what the student has no logits for is cut off, as KDFlow cuts it."""
    teacher = Model(2, TOKENS + more)
    algorithm = make(kdflow, teacher)
    (trained,) = run_step(algorithm, [micro_batch(teacher)])
    log = tmp_path / "log"
    rows = read(log, columns=("student_logprob", "teacher_logprob"))
    tokens = [t for _, completion in TEXTS for t in completion]
    assert rows["token_id"].tolist() == tokens
    assert rows["position"].tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    p, q = expected(algorithm.student, teacher)
    np.testing.assert_allclose(rows["loss"], reverse_kl(p, q), rtol=1e-5)
    assert rows["loss"].sum() == pytest.approx(trained, rel=1e-5)
    for name, z in (("student_logprob", p), ("teacher_logprob", q)):
        np.testing.assert_allclose(
            rows[name], log_softmax(z)[range(len(tokens)), tokens], rtol=1e-5
        )
    assert [row["prompt_token_ids"] for row in sequences(log)] == [p for p, _ in TEXTS]
    assert {row["finish_reason"] for row in sequences(log)} == {"stop"}
    run = run_of(log)
    assert (run["loss"]["exactness"], run["loss"]["trained"]) == ("exact", True)
    assert (run["student"], run["teacher"], run["vocab_size"]) == ("small", "big", TOKENS)


def test_a_step_is_as_many_micro_batches_as_kdflow_accumulates(
    kdflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROCKTOK_EVERY", "2")
    monkeypatch.setenv("ROCKTOK_RESUME_STEP", "4")
    teacher = Model(2)
    algorithm = make(kdflow, teacher, strategy(2))
    run_step(algorithm, [micro_batch(teacher, [TEXTS[i % 2]]) for i in range(6)])
    steps = rocktok.open(tmp_path / "log").steps("rollout")
    assert [(step.step, step.rows) for step in steps] == [(4, 8), (6, 8)]


def test_of_workers_that_share_a_text_one_writes(kdflow: Any, tmp_path: Path) -> None:
    teacher = Model(2)
    algorithm = make(kdflow, teacher, strategy(ring_attn_rank=1))
    run_step(algorithm, [micro_batch(teacher)])
    assert not (tmp_path / "log").exists()


def test_what_is_trained_is_the_same(kdflow: Any) -> None:
    teacher, plain = Model(2), kdflow.ALGO_DICT["vanilla_kd"]
    without = run_step(plain(strategy(), Model(1), teacher.head), [micro_batch(teacher)])
    assert run_step(make(kdflow, teacher), [micro_batch(teacher)]) == without


def test_an_unknown_signature_is_an_error_before_training(
    kdflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rocktok.hooks.kdflow import register

    def changed(self: Any, micro_batch: Any, teacher: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(kdflow.VanillaKD, "training_step", changed)
    with pytest.raises(HookError, match="training_step of KDFlow has the unknown teacher"):
        register()
    kdflow.ALGO_DICT.clear()
    with pytest.raises(HookError, match="KDFlow has no algorithm vanilla_kd"):
        register()


def test_without_a_log_it_is_refused(kdflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rocktok.hooks.kdflow import register

    monkeypatch.delenv("ROCKTOK_LOG")
    with pytest.raises(HookError, match="ROCKTOK_LOG is not set"):
        register()
