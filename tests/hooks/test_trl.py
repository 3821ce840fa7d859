"""What the TRL hook records: against the trainer's own loss and against a plain recomputation."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl.trainer import distillation_trainer

from rocktok import schema
from rocktok.errors import RocktokWarning
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach
from rocktok.hooks.trl import capture as trl_capture
from rocktok.hooks.vocabulary import vocabulary
from tests.trl_models import (
    PROMPTS,
    VOCAB_SIZE,
    make_model,
    make_tokenizer,
    make_trainer,
    manifest,
    read_sequences,
    read_table,
)

ALL = schema.OPTIONAL_STATISTICS


def train(folder: Path, *, recorder: dict[str, Any] | None = None, **options: Any) -> Any:
    """Train a tiny student with everything recorded; returns the trainer."""
    settings: dict[str, Any] = {"every": 1, "fixed_sequences": 0, "columns": ALL}
    trainer = make_trainer(folder, **options)
    with attach(trainer, Recorder(folder / "log", **{**settings, **(recorder or {})})):
        trainer.train()
    return trainer


def spy_on_loss(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Each call's (return × denominator, scored tokens), read off below the hook."""
    calls: list[tuple[float, int]] = []
    original = distillation_trainer._chunked_divergence_loss

    @wraps(original)
    def spy(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        denominator = kwargs["num_items_in_batch"]
        tokens = int(result[2])
        denominator = tokens if denominator is None else float(denominator)
        calls.append((float(result[0].detach()) * denominator, tokens))
        return result

    monkeypatch.setattr(distillation_trainer, "_chunked_divergence_loss", spy)
    return calls


def assert_sums_match(log: Path, calls: list[tuple[float, int]], calls_a_step: int) -> None:
    rows = read_table(log)
    losses: dict[int, float] = defaultdict(float)
    for step, loss in zip(rows["step"].tolist(), rows["loss"].tolist(), strict=True):
        losses[step] += loss
    assert len(calls) == calls_a_step * len(losses)
    for number, step in enumerate(sorted(losses)):
        mine = calls[number * calls_a_step : (number + 1) * calls_a_step]
        tokens = sum(t for _, t in mine)
        assert tokens == (rows["step"] == step).sum()
        assert losses[step] == pytest.approx(sum(v for v, _ in mine), rel=1e-5, abs=1e-6 * tokens)
    assert manifest(log)["mismatches"] == {}


def recomputed(model: Any, teacher: Any, row: dict[str, Any], temperature: float) -> dict[str, Any]:
    """All columns of one sequence, from full logits in float64, without padding or tiles."""
    ids = torch.tensor([[*row["prompt_token_ids"], *row["tokens"]]])
    start, tokens = len(row["prompt_token_ids"]), torch.tensor(row["tokens"])
    columns: dict[str, Any] = {}
    with torch.no_grad():
        base = model.double().model(input_ids=ids).last_hidden_state[0, start - 1 : -1]
        student = model.double()(input_ids=ids).logits[0, start - 1 : -1] / temperature
        other = teacher.double()(input_ids=ids).logits[0, start - 1 : -1] / temperature
    logits = student.clone().requires_grad_()
    logp, logq = logits.log_softmax(-1), other.log_softmax(-1)
    loss = (logp.exp() * (logp - logq)).sum(-1)
    loss.sum().backward()
    columns["loss"] = loss.detach()
    logp = logp.detach()
    columns["student_logprob"] = logp.gather(1, tokens[:, None])[:, 0]
    columns["teacher_logprob"] = logq.gather(1, tokens[:, None])[:, 0]
    columns["log_ratio"] = columns["student_logprob"] - columns["teacher_logprob"]
    columns["student_entropy"] = -(logp.exp() * logp).sum(-1)
    columns["teacher_entropy"] = -(logq.exp() * logq).sum(-1)
    # Autograd's gradient is with respect to the logits after division by the temperature.
    assert logits.grad is not None
    columns["grad_norm"] = logits.grad.norm(dim=-1) / temperature
    columns["head_grad_norm"] = columns["grad_norm"] * base.norm(dim=-1)
    p, q = logp.exp(), logq.exp()
    middle = (p + q) / 2
    columns["forward_kl"] = (q * (logq - logp)).sum(-1)
    columns["jsd"] = 0.5 * (
        (p * (logp - middle.log())).sum(-1) + (q * (logq - middle.log())).sum(-1)
    )
    ours, theirs = (
        torch.zeros_like(p).scatter(1, d.topk(schema.TOP_K).indices, 1.0) for d in (p, q)
    )
    both = ours * theirs
    columns["overlap"] = both.sum(-1) / schema.TOP_K
    columns["student_mass"], columns["teacher_mass"] = (p * both).sum(-1), (q * both).sum(-1)
    columns["teachability"] = (q * ours).sum(-1)
    columns["teacher_rank"] = 1 + (q > q.gather(1, tokens[:, None])).sum(-1)
    # Token 0 ends what either model writes.
    columns["student_end"], columns["teacher_end"] = p[:, 0], q[:, 0]
    assert set(columns) == {"loss", *ALL}
    return {name: values.numpy() for name, values in columns.items()}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rows_equal_a_recomputation_from_full_logits(tmp_path: Path, temperature: float) -> None:
    train(tmp_path, max_steps=1, temperature=temperature, pad_is_eos=True, **ENDING)
    rows = read_table(tmp_path / "log", columns=ALL)
    for sequence in read_sequences(tmp_path / "log"):
        mine = rows["sequence_id"] == sequence["sequence_id"]
        sequence["tokens"] = rows["token_id"][mine].tolist()
        expected = recomputed(make_model(1), make_model(2, hidden=48), sequence, temperature)
        for name, values in expected.items():
            np.testing.assert_allclose(rows[name][mine], values, rtol=2e-4, atol=2e-5, err_msg=name)


#: Ends about half of the completions before they are cut: token 0 is the end token.
ENDING: dict[str, Any] = {"generation_kwargs": {"sequence_bias": [[[0], 4.5]]}}


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_sums_equal_the_trainers_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pad_is_eos: bool
) -> None:
    calls = spy_on_loss(monkeypatch)
    train(tmp_path, gradient_accumulation_steps=3, pad_is_eos=pad_is_eos, max_steps=4, **ENDING)
    assert_sums_match(tmp_path / "log", calls, calls_a_step=3)
    steps = read_table(tmp_path / "log")["step"]
    ids = read_table(tmp_path / "log")["sequence_id"]
    assert {len(np.unique(ids[steps == s])) for s in range(4)} == {12}


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_padding_and_cut_completions(tmp_path: Path, pad_is_eos: bool) -> None:
    train(tmp_path, pad_is_eos=pad_is_eos, max_steps=4, **ENDING)
    rows, sequences = read_table(tmp_path / "log"), read_sequences(tmp_path / "log")
    reasons = defaultdict(int)
    for sequence in sequences:
        mine = rows["sequence_id"] == sequence["sequence_id"]
        tokens = rows["token_id"][mine].tolist()
        assert rows["position"][mine].tolist() == list(range(sequence["num_tokens"]))
        assert 0 not in tokens[:-1]
        stopped = tokens[-1] == 0
        assert sequence["finish_reason"] == ("stop" if stopped else "length")
        assert stopped or sequence["num_tokens"] == 12
        assert (rows["step"][mine] == sequence["step"]).all()
        reasons[sequence["finish_reason"]] += 1
    assert len(sequences) == 16
    assert min(reasons["stop"], reasons["length"]) >= 3


def test_prompts_are_identified(tmp_path: Path) -> None:
    trainer = train(tmp_path, max_steps=2, prompts=PROMPTS[:4], domain=True)
    by_prompt = defaultdict(set)
    for row in read_sequences(tmp_path / "log"):
        text = trainer._tokenizer.decode(row["prompt_token_ids"])
        assert row["domain"] == ("small" if PROMPTS.index(text) % 2 else "large")
        by_prompt[row["prompt_id"]].add(text)
    assert sorted(map(sorted, by_prompt.values())) == [[p] for p in sorted(PROMPTS[:4])]
    assert all(len(identity) == 16 for identity in by_prompt)


def with_tool_mask(trainer: Any) -> None:
    """As if a tool had written the tokens 3 to 5 of every other completion."""
    generate = trainer._generate

    def patched(prompts: Any) -> Any:
        prompt_ids, completion_ids, _, images, tool_images = generate(prompts)
        masks = [
            [int(not (row % 2 == 0 and 3 <= i <= 5)) for i in range(len(ids))]
            for row, ids in enumerate(completion_ids)
        ]
        return prompt_ids, completion_ids, masks, images, tool_images

    trainer._generate = patched


def test_tool_output_leaves_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spy_on_loss(monkeypatch)
    trainer = make_trainer(tmp_path, max_steps=2, gradient_accumulation_steps=2)
    with_tool_mask(trainer)
    recorder = Recorder(tmp_path / "log", every=1, fixed_sequences=8, fixed_every=100)
    with attach(trainer, recorder):
        trainer.train()
    # Two calls for each step's rollouts, then two for the texts kept, at both steps.
    assert_sums_match(tmp_path / "log", calls[0:2] + calls[4:6], calls_a_step=2)
    for table in ("rollout", "fixed"):
        rows, gaps = read_table(tmp_path / "log", table), 0
        lengths = {r["sequence_id"]: r["num_tokens"] for r in read_sequences(tmp_path / "log")}
        for sequence_id in np.unique(rows["sequence_id"]).tolist():
            here = (rows["sequence_id"] == sequence_id) & (rows["step"] == rows["step"].max())
            if not here.any():
                continue
            positions, length = rows["position"][here].tolist(), lengths[sequence_id]
            whole = list(range(length))
            assert positions in (whole, [i for i in whole if not 3 <= i <= 5])
            gaps += positions != whole
        assert gaps >= 2


def test_evaluation_is_not_recorded(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=4, eval_strategy="steps", eval_steps=1)
    with attach(trainer, Recorder(tmp_path / "log", every=2, fixed_sequences=0)):
        trainer.evaluate()
        trainer.train()
    rows = read_table(tmp_path / "log")
    assert np.unique(rows["step"]).tolist() == [0, 2]
    assert len(np.unique(rows["sequence_id"])) == len(read_sequences(tmp_path / "log")) == 8


def test_only_every_nth_step_is_recorded(tmp_path: Path) -> None:
    train(tmp_path, recorder={"every": 3}, max_steps=8)
    assert np.unique(read_table(tmp_path / "log")["step"]).tolist() == [0, 3, 6]
    assert manifest(tmp_path / "log")["steps"]["rollout"] == [0, 3, 6]
    assert manifest(tmp_path / "log")["final"]


def test_another_loss_is_still_recorded_as_reverse_kl(tmp_path: Path) -> None:
    train(tmp_path, beta=0.5, max_steps=1)
    log = tmp_path / "log"
    loss = json.loads((log / "run.json").read_text())["loss"]
    assert loss == {
        "divergence": "reverse_kl",
        "trained": False,
        "beta": 0.5,
        "exactness": "exact",
        "student_temperature": 1.0,
        "teacher_temperature": 1.0,
    }
    rows, sequence = read_table(log), read_sequences(log)[0]
    mine = rows["sequence_id"] == sequence["sequence_id"]
    sequence["tokens"] = rows["token_id"][mine].tolist()
    expected = recomputed(make_model(1), make_model(2, hidden=48), sequence, 1.0)
    np.testing.assert_allclose(rows["loss"][mine], expected["loss"], rtol=2e-4, atol=2e-5)
    assert manifest(log)["mismatches"] == {}


def test_run_json(tmp_path: Path) -> None:
    train(tmp_path, max_steps=1, top_p=0.9, generation_kwargs={"top_k": 50})
    run = json.loads((tmp_path / "log/run.json").read_text())
    assert run["loss"]["trained"] is True
    assert run["vocab_size"] == 320
    assert (run["sampling"]["top_p"], run["sampling"]["top_k"]) == (0.9, 50)
    assert (run["student"], run["teacher"]) == ("trainer", "teacher of trainer")
    assert run["extra"]["trainer"] == "trl.DistillationTrainer"


@pytest.mark.long
def test_names_of_models_come_from_their_paths(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.model.config._name_or_path = "models/student"
    trainer.teacher_model.config._name_or_path = "org/teacher-7b"
    recorder = Recorder(tmp_path / "log", every=1, fixed_sequences=0, teacher="a better name")
    with attach(trainer, recorder):
        trainer.train()
    run = json.loads((tmp_path / "log/run.json").read_text())
    assert (run["student"], run["teacher"]) == ("models/student", "a better name")


def with_masked_ids(model: Any) -> None:
    """Give a model's head a bias of −inf at the ids that no token has."""
    bias = torch.zeros(VOCAB_SIZE)
    bias[310:] = -torch.inf
    model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)


def test_ids_that_both_models_mask_are_no_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spy_on_loss(monkeypatch)
    trainer = make_trainer(tmp_path, max_steps=1)
    with_masked_ids(trainer.model)
    with_masked_ids(trainer.teacher_model)
    recorder = Recorder(tmp_path / "log", every=1, fixed_sequences=0)
    with (
        pytest.warns(RocktokWarning, match="not finite, as both models mask token ids by −inf"),
        attach(trainer, recorder),
    ):
        trainer.train()
    assert not np.isfinite(calls[0][0])
    assert manifest(tmp_path / "log")["mismatches"] == {}
    assert np.isfinite(read_table(tmp_path / "log")["loss"]).all()


@pytest.mark.long
def test_a_loss_of_the_trainer_that_is_no_number_otherwise_is_a_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = distillation_trainer._chunked_divergence_loss

    @wraps(original)
    def nan(*args: Any, **kwargs: Any) -> Any:
        loss, *rest = original(*args, **kwargs)
        return (loss * torch.nan, *rest)

    monkeypatch.setattr(distillation_trainer, "_chunked_divergence_loss", nan)
    with pytest.warns(RocktokWarning, match="the recorded losses are not the trained ones"):
        train(tmp_path, max_steps=1)
    assert manifest(tmp_path / "log")["mismatches"] == {"0": 1}


@pytest.mark.parametrize("how", ["autocast", "bfloat16"])
def test_half_precision_matches_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Also where TRL rounds a float32 head to the autocast type before it projects."""
    calls = spy_on_loss(monkeypatch)
    trainer = make_trainer(tmp_path, max_steps=3)
    if how == "autocast":
        autocast = partial(torch.autocast, "cpu", torch.bfloat16)
        monkeypatch.setattr(trainer, "compute_loss_context_manager", autocast, raising=False)
    else:
        trainer.model.bfloat16()
        trainer.teacher_model.bfloat16()
    with attach(trainer, Recorder(tmp_path / "log", every=1, fixed_sequences=0)):
        trainer.train()
    assert_sums_match(tmp_path / "log", calls, calls_a_step=1)


def test_a_mismatch_is_reported_once_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = trl_capture.token_statistics

    def off(**kwargs: Any) -> Any:
        statistics = original(**kwargs)
        statistics["loss"] *= 1.001
        return statistics

    monkeypatch.setattr(trl_capture, "token_statistics", off)
    with pytest.warns(RocktokWarning, match="the recorded losses are not the trained") as caught:
        train(tmp_path, max_steps=3, gradient_accumulation_steps=2)
    assert len([w for w in caught if w.category is RocktokWarning]) == 1
    assert manifest(tmp_path / "log")["mismatches"] == {"0": 2, "1": 2, "2": 2}


def test_another_trainer_passes_through(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "a", max_steps=2)
    other = make_trainer(tmp_path / "b", max_steps=3)
    with attach(trainer, Recorder(tmp_path / "log", every=1, fixed_sequences=0)):
        other.train()
        assert not (tmp_path / "log").exists()
        trainer.train()
    assert np.unique(read_table(tmp_path / "log")["step"]).tolist() == [0, 1]


def test_vocabulary_of_byte_level_bpe() -> None:
    tokenizer = make_tokenizer()
    raw = {token_id: data for token_id, _, data in vocabulary(tokenizer)}
    assert sorted(raw) == list(range(len(tokenizer)))
    for text in ("What is 3 plus 4?\n", "naïve — ∑ 日本", " two  spaces\t"):
        assert b"".join(raw[i] for i in tokenizer(text)["input_ids"]) == text.encode()
    assert raw[tokenizer.eos_token_id] == b"<|end|>"
