"""TRL's trainers whose teacher is on a server: bounds, what they train on, and what is refused.

No server runs: a stub answers with what a tiny model says, so that the exact losses are known.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl.experimental.async_distillation import async_distillation_trainer
from trl.experimental.server_distillation import ServerDistillationTrainer

import rocktok
from rocktok.errors import HookError, RocktokWarning
from rocktok.hooks import Recorder, TokenWeights
from rocktok.hooks.trl import attach, attach_weights
from rocktok.hooks.trl import served as trl_served
from rocktok.hooks.trl.served import SPARSE
from tests.trl_family import make_async, make_server, served_samples
from tests.trl_models import make_model, manifest, read_sequences, read_table

COLUMNS = ["log_ratio", "student_logprob", "teacher_logprob", "student_entropy"]


def exact(prompt: list[int], tokens: list[int], temperature: float = 1.0) -> dict[str, Any]:
    """What the two models say of a text, in float64, over the whole vocabulary."""
    ids = torch.tensor([[*prompt, *tokens]])
    logp, logq = (
        (model.double()(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature)
        .log_softmax(-1)
        .detach()
        for model in (make_model(1), make_model(2, hidden=48))
    )
    target = torch.tensor(tokens)[:, None]
    found = {
        "loss": (logp.exp() * (logp - logq)).sum(-1),
        "student_logprob": logp.gather(1, target)[:, 0],
        "teacher_logprob": logq.gather(1, target)[:, 0],
        "student_entropy": -(logp.exp() * logp).sum(-1),
    }
    found["log_ratio"] = found["student_logprob"] - found["teacher_logprob"]
    return {name: values.numpy() for name, values in found.items()}


def check_rows(log: Path, temperature: float = 1.0) -> None:
    """Rows of the first step: losses are bounds from below, all else is exact."""
    rows, checked = read_table(log, columns=COLUMNS), 0
    for text in read_sequences(log):
        mine = (rows["sequence_id"] == text["sequence_id"]) & (rows["step"] == 0)
        if not mine.any():
            continue
        found = exact(text["prompt_token_ids"], rows["token_id"][mine].tolist(), temperature)
        for name in COLUMNS:
            np.testing.assert_allclose(rows[name][mine], found[name], rtol=3e-4, atol=3e-5)
        assert (rows["loss"][mine] <= found["loss"] + 1e-5).all()
        checked += 1
    assert checked >= 3


# --- ServerDistillationTrainer -----------------------------------------------------------------


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize(("beta", "top_k"), [(1.0, 1), (0.5, 1), (0.0, 8)])
def test_a_served_loss_is_what_is_rebuilt_from_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beta: float, top_k: int, tail: bool
) -> None:
    """The recorder finds each call's return again: held here to 1e-5 of it, in float32."""
    differences: list[tuple[float, float]] = []

    def compare(
        self: Any, scoring: Any, recorded: float, trained: float, rows: int, excused: Any = None
    ) -> None:
        differences.append((recorded, trained))

    monkeypatch.setattr(trl_served.ServedCapture, "compare", compare)
    options = {"beta": beta, "loss_top_k": top_k, "loss_add_tail": tail, "temperature": 0.8}
    trainer = make_server(tmp_path, monkeypatch, gradient_accumulation_steps=2, **options)
    recorder = Recorder(tmp_path / "log", every=1, fixed_sequences=0, columns=COLUMNS, quiet=True)
    with attach(trainer, recorder):
        trainer.train()
    assert len(differences) == 6
    for recorded, trained in differences:
        assert recorded == pytest.approx(trained, rel=1e-5, abs=1e-5)
    # Renormalized over one token, both models are certain: TRL then trains on nothing.
    assert any(trained for _, trained in differences) or (beta == 1 and not tail)
    check_rows(tmp_path / "log", temperature=0.8)
    run = json.loads((tmp_path / "log/run.json").read_text())
    assert (run["loss"]["exactness"], run["loss"]["trained"]) == ("topk", False)
    assert run["extra"]["teacher_top_k"] == top_k


def test_kept_text_is_scored_by_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 3}
    plain = make_server(tmp_path / "plain", monkeypatch, **options)
    plain.train()
    trainer = make_server(tmp_path, monkeypatch, **options)
    recorder = Recorder(tmp_path / "log", every=1, fixed_sequences=4, fixed_every=2)
    with attach(trainer, recorder):
        trainer.train()
    log = rocktok.open(tmp_path / "log")
    assert log.complete_steps("fixed") == [0, 2, 4]
    assert {path.name for path in (tmp_path / "log").iterdir()}.isdisjoint({"alternatives"})
    assert manifest(tmp_path / "log")["mismatches"] == {}
    said = capsys.readouterr().err
    assert (
        "without the columns teacher_entropy, grad_norm. ServerDistillationTrainer has losses that "
        "are 'topk': its teacher is on a server, which gives the likeliest tokens alone" in said
    )
    assert "text of 4 prompts kept now" in said
    for one, other in zip(plain.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_columns_asked_for_by_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_server(tmp_path, monkeypatch)
    with pytest.raises(HookError, match="columns teacher_entropy, jsd cannot be recorded"):
        attach(trainer, Recorder(tmp_path / "log", columns=["jsd", "teacher_entropy"]))
    with pytest.raises(HookError, match="gradients cannot be summed: its teacher is on a server"):
        attach(trainer, Recorder(tmp_path / "log", gradient_types=[1]))
    with pytest.raises(HookError, match=r"losses of ServerDistillationTrainer are over what its"):
        attach_weights(trainer, TokenWeights([1], 0.0))
    assert not (tmp_path / "log").exists()


def test_answers_of_the_wrong_tokens_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = trl_served.student_of

    def off(logprobs: Any, served: Any) -> Any:
        return original(logprobs.roll(1, 0), served)

    monkeypatch.setattr(trl_served, "student_of", off)
    trainer = make_server(tmp_path, monkeypatch, max_steps=1)
    with (
        pytest.warns(RocktokWarning, match="the recorded losses differ from the trained ones"),
        attach(trainer, Recorder(tmp_path / "log", every=1, fixed_sequences=0, quiet=True)),
    ):
        trainer.train()


def test_an_unknown_server_trainer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_server(tmp_path, monkeypatch)
    monkeypatch.setattr(ServerDistillationTrainer, SPARSE, lambda self, answers: None)
    with pytest.raises(HookError, match=rf"\.{SPARSE} of trl 1\.16\.0 lacks "):
        attach(trainer, Recorder(tmp_path / "log"))


# --- AsyncDistillationTrainer ------------------------------------------------------------------


def spy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """What the loss function returned, and of how many tokens."""
    calls: list[tuple[float, int]] = []
    original = async_distillation_trainer._chunked_jsd_loss

    def watched(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        calls.append((float(result[0].detach()), len(args[0])))
        return result

    watched.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    watched.__wrapped__ = original  # type: ignore[attr-defined]
    monkeypatch.setattr(async_distillation_trainer, "_chunked_jsd_loss", watched)
    return calls


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0])
def test_packed_rows_are_taken_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beta: float, tail: bool
) -> None:
    calls = spy(monkeypatch)
    differences: list[tuple[float, float]] = []

    def compare(
        self: Any, scoring: Any, recorded: float, trained: float, rows: int, excused: Any = None
    ) -> None:
        differences.append((recorded, trained))

    trainer = make_async(
        tmp_path,
        monkeypatch,
        beta=beta,
        add_tail_bucket=tail,
        gradient_accumulation_steps=2,
        teacher_temperature=1.0,
    )
    monkeypatch.setattr("rocktok.hooks.trl.async_served.AsyncCapture.compare", compare)
    recorder = Recorder(tmp_path / "log", every=1, columns=COLUMNS, quiet=True)
    with attach(trainer, recorder):
        trainer.train()
    assert [trained for _, trained in differences] == [value for value, _ in calls]
    for recorded, trained in differences:
        assert recorded == pytest.approx(trained, rel=1e-5, abs=1e-5)
    rows = read_table(tmp_path / "log", columns=COLUMNS)
    assert sum(count for _, count in calls) == len(rows["loss"])
    # The texts of the queue, in its order; two of three of one batch have all of their rows.
    texts = served_samples(24, 4)
    listed = sorted(read_sequences(tmp_path / "log"), key=lambda row: row["sequence_id"])
    assert len(listed) == 24
    where = {tuple(t.input_ids[t.completion_mask != 0].tolist()): t for t in texts}
    for row in listed:
        mine = rows["sequence_id"] == row["sequence_id"]
        tokens = rows["token_id"][mine].tolist()
        (sample,) = [
            t
            for ids, t in where.items()
            if len(ids) == row["num_tokens"] and [ids[i] for i in rows["position"][mine]] == tokens
        ]
        prompt = sample.input_ids[sample.completion_mask == 0].tolist()
        assert row["prompt_token_ids"] == prompt
        missing = set(range(row["num_tokens"])) - set(rows["position"][mine].tolist())
        assert missing == ({1} if sample.prompt_id % 3 == 1 else set())
    check_packed(tmp_path / "log")


def check_packed(log: Path) -> None:
    """Student and teacher each read one text alone: the packed row does not mix them."""
    rows = read_table(log, columns=COLUMNS)
    checked = 0
    for text in read_sequences(log):
        mine = (rows["sequence_id"] == text["sequence_id"]) & (rows["step"] == 0)
        if mine.sum() != text["num_tokens"]:
            continue
        found = exact(text["prompt_token_ids"], rows["token_id"][mine].tolist())
        np.testing.assert_allclose(
            rows["teacher_logprob"][mine], found["teacher_logprob"], rtol=3e-4, atol=3e-5
        )
        assert (rows["loss"][mine] >= -1e-6).all()
        checked += 1
    assert checked >= 3


def test_an_async_log_says_that_it_has_no_kept_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_async(tmp_path, monkeypatch, max_steps=2)
    with attach(trainer, Recorder(tmp_path / "log", every=1)):
        said = capsys.readouterr().err
        trainer.train()
    assert (
        "without kept text: AsyncDistillationTrainer has its texts scored by a process of" in said
    )
    assert "rocktok rescore" in said
    assert manifest(tmp_path / "log")["steps"] == {"rollout": [0, 1], "fixed": []}
    assert manifest(tmp_path / "log")["mismatches"] == {}
    assert rocktok.info(tmp_path / "log").log["exactness"] == "topk"


def test_several_teachers_are_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = {"math": "http://localhost:1", "code": "http://localhost:2"}
    trainer = make_async(tmp_path, monkeypatch, max_steps=2, teacher_server_urls=urls)
    with attach(trainer, Recorder(tmp_path / "log", every=1, quiet=True)):
        trainer.train()
    teacher_of = {
        tuple(text.input_ids[text.completion_mask == 0].tolist()): text.teacher_id
        for text in served_samples(200, 4, teachers=list(urls))
    }
    listed = read_sequences(tmp_path / "log")
    assert {row["domain"] for row in listed} == set(urls)
    for row in listed:
        assert row["domain"] == teacher_of[tuple(row["prompt_token_ids"])]


def test_what_an_async_trainer_cannot_give_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_async(tmp_path, monkeypatch)
    with pytest.raises(HookError, match="kept text cannot be scored: AsyncDistillationTrainer has"):
        attach(trainer, Recorder(tmp_path / "log", fixed_at_start=True))
    with pytest.raises(HookError, match=r"losses of AsyncDistillationTrainer are over what its"):
        attach_weights(trainer, TokenWeights([1], 0.0))
    monkeypatch.setattr(async_distillation_trainer, "_chunked_jsd_loss", lambda hidden: None)
    with pytest.raises(HookError, match=r"_chunked_jsd_loss of trl 1\.16\.0 lacks hidden_valid"):
        attach(trainer, Recorder(tmp_path / "log"))
