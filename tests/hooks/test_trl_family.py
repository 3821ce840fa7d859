"""TRL's trainers of full logits: what is recorded against each trainer's own loss, and against a
plain recomputation; training that notices nothing; text that is kept.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl.experimental.gkd import GKDTrainer
from trl.experimental.gold import GOLDTrainer
from trl.experimental.iw_opd import IWOPDTrainer
from trl.experimental.sdft import SDFTTrainer, sdft_trainer
from trl.experimental.sdpo import SDPOTrainer

import rocktok
from rocktok import schema
from rocktok.errors import HookError, RocktokWarning
from rocktok.files import place
from rocktok.hooks import Recorder
from rocktok.hooks.fixed_set import inherit
from rocktok.hooks.trl import attach
from rocktok.hooks.trl import logits as trl_logits
from rocktok.hooks.trl.checks import TESTED_TRL
from rocktok.hooks.trl.families import TRAINERS
from rocktok.hooks.trl.labelled import IGNORED, labelled_inputs, labelled_text, positions
from tests.hooks.test_trl_training import assert_same, outcome
from tests.paths import ROOT
from tests.trl_family import make_gkd, make_gold, make_iw_opd, make_sdft, make_sdpo
from tests.trl_models import make_model, manifest, read_sequences, read_table

#: Held where both sides are sums in float32 of the same terms; measured: 2e-7 at most.
TIGHT = 1e-6

MAKE: dict[str, Callable[..., Any]] = {
    "gkd": make_gkd,
    "gold": make_gold,
    "sdft": make_sdft,
    "sdpo": make_sdpo,
    "iw_opd": make_iw_opd,
}
#: The others share their code with these two.
ALL = [
    name if name in ("gkd", "sdft") else pytest.param(name, marks=pytest.mark.long)
    for name in sorted(MAKE)
]
#: Half of the batches are the student's own, where a trainer can mix them.
MIXED: dict[str, dict[str, Any]] = {
    "gkd": {"lmbda": 0.5},
    "gold": {"lmbda": 0.5},
    "iw_opd": {"lmbda": 0.5, "distillation_objective": "jsd", "loss_top_k": 0},
    "sdft": {},
    "sdpo": {},
}


def train(
    folder: Path, name: str, *, recorder: dict[str, Any] | None = None, **options: Any
) -> Any:
    """Train a tiny student with a recorder; returns the trainer."""
    trainer = MAKE[name](folder, **options)
    settings: dict[str, Any] = {"every": 1, "fixed_sequences": 0, "quiet": True, **(recorder or {})}
    with attach(trainer, Recorder(folder / "log", **settings)):
        trainer.train()
    return trainer


@dataclass
class Call:
    """One call of a trainer's own loss function, seen below the hook."""

    value: float
    rows: int


def spy(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, static: bool) -> list[Call]:
    """Each training call's return × its denominator, a number of tokens."""
    calls: list[Call] = []
    original = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        rows = int((kwargs["labels"] != IGNORED).sum())
        items = kwargs.get("num_items_in_batch")
        if result.requires_grad:
            # Evaluation is not recorded.
            denominator = float(rows if items is None else items)
            calls.append(Call(float(result.detach()) * denominator, rows))
        return result

    watched.__signature__ = __import__("inspect").signature(original)  # type: ignore[attr-defined]
    watched.__wrapped__ = original  # type: ignore[attr-defined]
    monkeypatch.setattr(owner, name, staticmethod(watched) if static else watched)
    return calls


def by_step(log: Path, column: str = "loss") -> dict[int, float]:
    rows = read_table(log, columns=() if column == "loss" else (column,))
    return {
        int(step): float(rows[column][rows["step"] == step].sum(dtype=np.float64))
        for step in np.unique(rows["step"])
    }


# --- the trainer's own loss --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gkd", "gold"])
@pytest.mark.parametrize(("beta", "column"), [(1.0, "loss"), (0.0, "forward_kl"), (0.5, "jsd")])
def test_sums_are_the_jsd_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, beta: float, column: str
) -> None:
    """With accumulation, a temperature, texts of the student and of the data."""
    owner = {"gkd": GKDTrainer, "gold": GOLDTrainer}[name]
    calls = spy(monkeypatch, owner, "generalized_jsd_loss", static=True)
    columns = [] if column == "loss" else [column]
    train(
        tmp_path,
        name,
        recorder={"columns": columns},
        beta=beta,
        lmbda=0.5,
        temperature=0.7,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=2,
    )
    sums = by_step(tmp_path / "log", column)
    rows = read_table(tmp_path / "log")["step"]
    assert (sorted(sums), len(calls)) == ([0, 1, 2], 6)
    for step, value in sums.items():
        mine = calls[2 * step : 2 * step + 2]
        assert sum(call.rows for call in mine) == (rows == step).sum()
        assert value == pytest.approx(sum(call.value for call in mine), rel=TIGHT)
    assert manifest(tmp_path / "log")["mismatches"] == {}
    assert {row["on_policy"] for row in read_sequences(tmp_path / "log")} == {True, False}


@pytest.mark.parametrize("name", ["sdft", "sdpo"])
def test_means_of_texts_are_the_self_distillation_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its return × the number of texts is the sum of the texts' means; of their own masks."""
    kind = {"sdft": SDFTTrainer, "sdpo": SDPOTrainer}[name]
    calls: list[tuple[float, int]] = []
    original = kind._compute_self_distillation_loss

    def watched(self: Any, model: Any, inputs: Any, distillation_logits: Any) -> Any:
        result = original(self, model, inputs, distillation_logits)
        calls.append((float(result.detach()), len(distillation_logits.loss_mask)))
        return result

    watched.__wrapped__ = original  # type: ignore[attr-defined]
    monkeypatch.setattr(kind, "_compute_self_distillation_loss", watched)
    skip = {"num_loss_tokens_to_skip": 2} if name == "sdft" else {}
    train(tmp_path, name, gradient_accumulation_steps=2, temperature=0.8, **skip)
    rows = read_table(tmp_path / "log")
    for step in range(3):
        mine = rows["step"] == step
        means = [
            rows["loss"][mine & (rows["sequence_id"] == text)].mean(dtype=np.float64)
            for text in np.unique(rows["sequence_id"][mine])
        ]
        (one, texts), (other, _) = calls[2 * step : 2 * step + 2]
        # A text without a teacher's prompt has a mean of 0 there, and no rows here.
        assert sum(means) == pytest.approx((one + other) * texts, rel=TIGHT)
    if name == "sdft":
        assert rows["position"].min() == 2
    assert manifest(tmp_path / "log")["mismatches"] == {}


def test_sampled_losses_are_products_of_what_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDPO's default: log-ratio × log-probability of the sampled token."""
    kept: list[torch.Tensor] = []
    name = "compute_sampled_token_self_distillation_loss"
    original = getattr(sdft_trainer, name)

    def watched(
        student_logits: Any, teacher_logits: Any, completion_ids: Any, *, distillation_alpha: float
    ) -> Any:
        kept.append(
            original(
                student_logits,
                teacher_logits,
                completion_ids,
                distillation_alpha=distillation_alpha,
            )
        )
        return kept[-1]

    monkeypatch.setattr(sdft_trainer, name, watched)
    columns = ["log_ratio", "student_logprob"]
    options = {"distillation_mode": "sampled_token", "max_steps": 1}
    train(tmp_path, "sdft", recorder={"columns": columns}, **options)
    rows = read_table(tmp_path / "log", columns=columns)
    value = (rows["log_ratio"] * rows["student_logprob"]).sum(dtype=np.float64)
    width = kept[0].shape[1]
    lengths = [row["num_tokens"] for row in read_sequences(tmp_path / "log")]
    mask = np.arange(width) < np.array(lengths)[:, None]
    assert value == pytest.approx(
        float(kept[0].detach().numpy()[mask].sum(dtype=np.float64)), rel=TIGHT
    )
    assert json.loads((tmp_path / "log/run.json").read_text())["loss"]["trained"] is False
    assert manifest(tmp_path / "log")["mismatches"] == {}


def test_topk_losses_are_at_most_the_exact_ones(tmp_path: Path) -> None:
    """SDFT's default trains a part of the divergence; recorded is the whole."""
    options = {"distillation_mode": "topk_logits", "distillation_topk": 20}
    tail = {"distillation_add_tail": True, "distillation_alpha": 1.0, "max_steps": 1}
    trainer = train(tmp_path, "sdft", **options, **tail)
    (entry,) = [e for e in trainer.state.log_history if "sdft/distillation_loss" in e]
    exact = read_table(tmp_path / "log")["loss"].mean(dtype=np.float64)
    assert 0.1 * exact < entry["sdft/distillation_loss"] < exact


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_iw_opd_weights_what_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gamma: float
) -> None:
    """Its loss from the recorded log-probabilities, text by text, by the formula of its paper."""
    calls = spy(monkeypatch, IWOPDTrainer, "_compute_iw_opd_loss", static=False)
    columns = ["student_logprob", "teacher_logprob"]
    options = {"iw_opd_gamma": gamma, "gradient_accumulation_steps": 2, "temperature": 0.8}
    train(tmp_path, "iw_opd", recorder={"columns": columns}, **options)
    rows = read_table(tmp_path / "log", columns=columns)
    for step in range(3):
        expected = 0.0
        for text in np.unique(rows["sequence_id"][rows["step"] == step]):
            mine = rows["sequence_id"] == text
            p, q = (rows[c][mine].astype(np.float64) for c in columns)
            gap, before = q - p, 0.0
            for own, a in zip(p, gap, strict=True):
                weight = 1 + gamma * (1 - before / np.abs(gap).sum())
                expected -= own * weight * a
                before += abs(a)
        mine_calls = calls[2 * step : 2 * step + 2]
        assert sum(call.value for call in mine_calls) == pytest.approx(expected, rel=TIGHT)
    assert manifest(tmp_path / "log")["mismatches"] == {}


@pytest.mark.parametrize("top_k", [0, 1])
def test_the_other_objectives_of_iw_opd(tmp_path: Path, top_k: int) -> None:
    options = {"distillation_objective": "jsd", "loss_top_k": top_k, "beta": 1.0, "max_steps": 2}
    train(tmp_path, "iw_opd", **options)
    run = json.loads((tmp_path / "log/run.json").read_text())
    assert run["loss"]["trained"] is (top_k == 0)
    assert (read_table(tmp_path / "log")["loss"] > 0).all()
    assert manifest(tmp_path / "log")["mismatches"] == {}


@pytest.mark.parametrize("name", ALL)
def test_a_loss_that_is_off_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nobody else would see a hook that reads the wrong rows."""
    original = trl_logits.token_statistics

    def off(**kwargs: Any) -> Any:
        kwargs["teacher_logits"] = kwargs["teacher_logits"].roll(1, 1)
        return original(**kwargs)

    monkeypatch.setattr(trl_logits, "token_statistics", off)
    with pytest.warns(RocktokWarning, match="the recorded losses differ from the trained ones"):
        train(tmp_path, name, max_steps=1)
    assert rocktok.info(tmp_path / "log").mismatches == 1


# --- each row ----------------------------------------------------------------------------------


def recomputed(student: Any, teacher: Any, own: list[int], prompt: list[int], tokens: list[int],
               temperature: float, column: str) -> Any:  # fmt: skip
    """A column of one text, in float64, each model reading its own prompt without padding."""
    logits = []
    for model, start in ((student, own), (teacher, prompt)):
        with torch.no_grad():
            found = model.double()(input_ids=torch.tensor([[*start, *tokens]])).logits[0]
        logits.append(found[len(start) - 1 : -1] / temperature)
    z = logits[0].clone().requires_grad_()
    logp, logq = z.log_softmax(-1), logits[1].log_softmax(-1)
    loss = (logp.exp() * (logp - logq)).sum(-1)
    loss.sum().backward()
    assert z.grad is not None
    target = torch.tensor(tokens)[:, None]
    return {
        "loss": loss.detach(),
        "teacher_logprob": logq.gather(1, target)[:, 0],
        "student_entropy": -(logp.exp() * logp).sum(-1).detach(),
        # Autograd's gradient is with respect to the logits after division by the temperature.
        "grad_norm": z.grad.norm(dim=-1) / temperature,
        "overlap": _overlap(logp.detach(), logq),
    }[column].numpy()


def _overlap(logp: Any, logq: Any) -> Any:
    k = schema.TOP_K
    ours, theirs = (torch.zeros_like(x).scatter(1, x.topk(k).indices, 1.0) for x in (logp, logq))
    return (ours * theirs).sum(-1) / k


COLUMNS = ["teacher_logprob", "student_entropy", "grad_norm", "overlap"]


@pytest.mark.parametrize(
    "name",
    [
        "gkd",
        pytest.param("gold", marks=pytest.mark.long),
        "sdft",
        pytest.param("iw_opd", marks=pytest.mark.long),
    ],
)
def test_rows_equal_a_recomputation(tmp_path: Path, name: str) -> None:
    """Token by token: labels shift by one, padding has no rows, each model reads its prompt."""
    temperature = 0.7
    options = {"max_steps": 1, "temperature": temperature, **MIXED[name]}
    options |= {} if name == "sdft" else {"gradient_accumulation_steps": 4}
    trainer = train(tmp_path, name, recorder={"columns": COLUMNS}, **options)
    rows = read_table(tmp_path / "log", columns=COLUMNS)
    student = make_model(1)
    teacher = make_model(1) if name == "sdft" else make_model(2, hidden=48)
    kinds = set()
    for row in read_sequences(tmp_path / "log"):
        mine = rows["sequence_id"] == row["sequence_id"]
        tokens, own = rows["token_id"][mine].tolist(), row["prompt_token_ids"]
        assert rows["position"][mine].tolist() == list(range(row["num_tokens"]))
        prompt = own
        if name == "sdft":
            text = trainer._tokenizer.decode(own)
            number = trainer.train_dataset["prompt"].index(text)
            context = trainer.train_dataset["privileged_context"][number]
            prompt = trainer._tokenizer(text=[f"{text}\n\n{context}"])["input_ids"][0]
        # GKD samples at its temperature, and has none in its loss.
        by = 1.0 if name == "gkd" else temperature
        for column in ("loss", *COLUMNS):
            expected = recomputed(student, teacher, own, prompt, tokens, by, column)
            np.testing.assert_allclose(
                rows[column][mine], expected, rtol=3e-4, atol=3e-5, err_msg=column
            )
        kinds.add(row["on_policy"])
    assert kinds == ({True} if name == "sdft" else {True, False})


def test_everything_can_be_recorded(tmp_path: Path) -> None:
    """Also what is made of hidden states, which the loss does not see."""
    train(tmp_path, "gkd", recorder={"columns": "all"}, max_steps=1)
    rows = read_table(tmp_path / "log", columns=["head_grad_norm", "grad_norm"])
    (text, *_) = read_sequences(tmp_path / "log")
    mine = rows["sequence_id"] == text["sequence_id"]
    ids = torch.tensor([[*text["prompt_token_ids"], *rows["token_id"][mine].tolist()]])
    with torch.no_grad():
        states = make_model(1).model(input_ids=ids).last_hidden_state
    start = len(text["prompt_token_ids"])
    norms = states[0, start - 1 : -1].norm(dim=-1).numpy()
    expected = rows["grad_norm"][mine] * norms
    np.testing.assert_allclose(rows["head_grad_norm"][mine], expected, rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["base", "ema", "live"])
def test_one_model_with_an_adapter_is_student_and_teacher(tmp_path: Path, kind: str) -> None:
    """Its head is called twice for a batch: first for the student."""
    from peft import LoraConfig

    class Adapted(SDFTTrainer):  # type: ignore[misc]
        def __init__(self, **arguments: Any) -> None:
            super().__init__(
                peft_config=LoraConfig(target_modules=["q_proj", "v_proj"], r=4), **arguments
            )

    options = {"kind": Adapted, "teacher_model_kind": kind, "max_steps": 2}
    recorder = {"fixed_sequences": 3, "fixed_every": 1, "columns": "all"}
    train(tmp_path, "sdft", recorder=recorder, **options)
    found = manifest(tmp_path / "log")
    assert (found["mismatches"], found["dropped"]) == ({}, [])
    assert found["steps"]["contexts"] == found["steps"]["fixed"][:1]
    rows = read_table(tmp_path / "log", columns=["head_grad_norm", "grad_norm"])
    with torch.no_grad():
        (text, *_) = read_sequences(tmp_path / "log")
        mine = rows["sequence_id"] == text["sequence_id"]
        ids = torch.tensor([[*text["prompt_token_ids"], *rows["token_id"][mine].tolist()]])
        states = make_model(1).model(input_ids=ids).last_hidden_state
    norms = states[0, len(text["prompt_token_ids"]) - 1 : -1].norm(dim=-1).numpy()
    # An adapter is nothing at first: the student's states are the base model's.
    expected = rows["grad_norm"][mine] * norms
    np.testing.assert_allclose(rows["head_grad_norm"][mine], expected, rtol=1e-4)


def test_a_batch_that_is_scored_twice_in_a_step_is_recorded_once(tmp_path: Path) -> None:
    """Two steps for each generation and two passes over it: both within one optimizer step."""
    options = {"steps_per_generation": 2, "num_iterations": 2, "gradient_accumulation_steps": 4}
    train(tmp_path, "sdft", max_steps=2, **options)
    rows = read_table(tmp_path / "log")
    keys = list(zip(rows["step"], rows["sequence_id"], rows["position"], strict=True))
    assert len(keys) == len(set(keys))
    assert manifest(tmp_path / "log")["dropped"] == []
    assert len(read_sequences(tmp_path / "log")) == 16


def test_texts_that_several_steps_train_on_are_listed_once(tmp_path: Path) -> None:
    """Their rows are of each step, with the student of that step, and importance weights."""
    options = {"steps_per_generation": 2, "num_iterations": 2, "gradient_accumulation_steps": 1}
    train(tmp_path, "sdft", max_steps=4, **options)
    rows, listed = read_table(tmp_path / "log"), read_sequences(tmp_path / "log")
    assert {row["step"] for row in listed} == {0}
    assert len(listed) == len({row["sequence_id"] for row in listed}) == 8
    steps = defaultdict(set)
    for text, step in zip(rows["sequence_id"].tolist(), rows["step"].tolist(), strict=True):
        steps[text].add(step)
    assert sorted(map(sorted, steps.values())) == [[0, 2]] * 4 + [[1, 3]] * 4
    assert json.loads((tmp_path / "log/run.json").read_text())["loss"]["trained"] is False
    assert manifest(tmp_path / "log")["mismatches"] == {}


def test_a_text_that_is_kept_before_its_step_is_listed_once(tmp_path: Path) -> None:
    """Texts are generated for two steps at a time, and kept at once."""
    options = {"steps_per_generation": 2, "gradient_accumulation_steps": 1, "max_steps": 4}
    train(tmp_path, "sdft", recorder={"fixed_sequences": 7, "fixed_every": 2}, **options)
    found = manifest(tmp_path / "log")
    assert found["dropped"] == []
    assert found["steps"]["rollout"] == [0, 1, 2, 3]
    listed = [row["sequence_id"] for row in read_sequences(tmp_path / "log")]
    rows = set(read_table(tmp_path / "log")["sequence_id"].tolist())
    assert len(listed) == len(set(listed)) == 16
    assert rows == set(listed)
    kept = {text.sequence_id for text in inherit(place(tmp_path / "log"), 100).kept}
    assert kept <= rows


# --- labels ------------------------------------------------------------------------------------


def test_a_row_is_taken_apart_at_its_labels() -> None:
    ids = np.array([1, 1, 5, 6, 7, 8, 9, 4, 1])
    attended = np.array([0, 0, 1, 1, 1, 1, 1, 1, 0])
    labels = np.array([-100, -100, -100, -100, 7, -100, 9, 4, -100])
    text = labelled_text(ids, attended, labels)
    assert text.prompt.tolist() == [5, 6]
    # Another turn stands in between: it is read, and not trained on.
    assert text.completion.tolist() == [7, 8, 9, 4]
    assert text.loss_mask.tolist() == [1, 0, 1, 1]
    assert text.position_L.tolist() == [-1, -1, -1, -1, 0, 1, 2, 3, -1]


def test_the_first_token_of_a_row_is_never_predicted() -> None:
    ids, there = np.array([5, 6, 7]), np.ones(3)
    text = labelled_text(ids, there, ids)
    assert (text.prompt.tolist(), text.completion.tolist()) == ([5], [6, 7])
    nothing = labelled_text(ids, there, np.full(3, IGNORED))
    assert (nothing.prompt.tolist(), nothing.completion.tolist()) == ([5, 6, 7], [])


def test_kept_texts_become_batches_with_the_same_labels(tmp_path: Path) -> None:
    train(tmp_path, "gkd", recorder={"fixed_sequences": 5, "fixed_every": 1}, max_steps=2)
    kept = inherit(place(tmp_path / "log"), 100).kept
    batch = labelled_inputs(kept, padding=1)
    place_BK = positions(batch, batch["labels"].shape[1] - 1)
    for row, rollout in enumerate(kept):
        scored = batch["labels"][row, 1:] != IGNORED
        tokens = batch["labels"][row, 1:][scored]
        assert tokens.tolist() == rollout.completion_token_ids.tolist()
        assert place_BK[row][scored.numpy()].tolist() == list(range(len(tokens)))


# --- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_training_is_bit_identical(tmp_path: Path, name: str) -> None:
    """Parameters, optimizer, random state and logged numbers, with text kept and evaluations."""
    options: dict[str, Any] = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "gradient_accumulation_steps": 2,
        **MIXED[name],
    }
    plain = MAKE[name](tmp_path / "plain", **options)
    plain.train()
    recorder = {"fixed_sequences": 4, "fixed_every": 2, "columns": "all"}
    recorded = train(tmp_path / "recorded", name, recorder=recorder, **options)
    for trainer in (plain, recorded):
        # Where the trainer counts its calls in another way, there is nothing to compare.
        trainer._step = getattr(trainer, "_step", 0)
    assert_same(outcome(recorded), outcome(plain))
    log = tmp_path / "recorded/log"
    assert manifest(log)["steps"]["rollout"] == [0, 1, 2]
    assert manifest(log)["steps"]["fixed"][-1] == 3
    # Evaluation has neither rows nor texts.
    listed = {row["sequence_id"] for row in read_sequences(log)}
    assert set(read_table(log)["sequence_id"].tolist()) <= listed


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_left_on_a_trainer(tmp_path: Path, name: str) -> None:
    trainer = MAKE[name](tmp_path, max_steps=1)
    modules = [vars(sdft_trainer)[n] for n in vars(sdft_trainer) if n.startswith("compute_")]

    def state() -> Any:
        return {key: value for key, value in vars(trainer).items() if callable(value)}

    before = state()
    with attach(trainer, Recorder(tmp_path / "log", fixed_sequences=0, quiet=True)):
        trainer.train()
    assert {k: v for k, v in state().items() if k in before} == before
    left = set(state()) - set(before)
    assert not left & {"compute_loss", "training_step", "generalized_jsd_loss"}
    assert [
        vars(sdft_trainer)[n] for n in vars(sdft_trainer) if n.startswith("compute_")
    ] == modules


# --- kept text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_kept_text_is_the_same_at_each_scoring(tmp_path: Path, name: str) -> None:
    recorder = {"fixed_sequences": 4, "fixed_every": 2}
    trainer = train(tmp_path, name, recorder=recorder, max_steps=4, **MIXED[name])
    fixed, kept = read_table(tmp_path / "log", "fixed"), inherit(place(tmp_path / "log"), 100).kept
    steps = np.unique(fixed["step"]).tolist()
    assert len(steps) >= 2
    assert manifest(tmp_path / "log")["mismatches"] == {}
    for step in steps:
        for text in kept:
            mine = (fixed["step"] == step) & (fixed["sequence_id"] == text.sequence_id)
            scored = text.completion_token_ids[text.loss_mask != 0]
            assert fixed["token_id"][mine].tolist() == scored.tolist()
    # Where a trainer has texts of the student, only these are kept.
    assert all(text.on_policy in (True, None) for text in kept)
    assert len({text.prompt_id for text in kept}) == 4
    if name.startswith("sd"):
        assert all(len(t.teacher_prompt_token_ids) > len(t.prompt_token_ids) for t in kept)
    assert trainer.model.training


def test_a_kept_text_of_sdft_keeps_its_teachers_prompt(tmp_path: Path) -> None:
    """The loss at the first scoring is a recomputation's, with the teacher as it was first."""
    train(tmp_path, "sdft", recorder={"fixed_sequences": 3, "fixed_every": 2}, learning_rate=0.0)
    fixed = read_table(tmp_path / "log", "fixed")
    first = fixed["step"] == fixed["step"].min()
    for text in inherit(place(tmp_path / "log"), 100).kept:
        mine = first & (fixed["sequence_id"] == text.sequence_id)
        tokens = text.completion_token_ids.tolist()
        expected = recomputed(
            make_model(1), make_model(1), text.prompt_token_ids.tolist(),
            text.teacher_prompt_token_ids.tolist(), tokens, 1.0, "loss",
        )  # fmt: skip
        np.testing.assert_allclose(fixed["loss"][mine], expected, rtol=3e-4, atol=3e-5)


def test_off_policy_training_keeps_the_texts_of_the_data(tmp_path: Path) -> None:
    train(tmp_path, "gkd", recorder={"fixed_sequences": 4, "fixed_every": 2}, lmbda=0.0)
    assert {text.on_policy for text in inherit(place(tmp_path / "log"), 100).kept} == {False}
    assert len(np.unique(read_table(tmp_path / "log", "fixed")["sequence_id"])) == 4


def test_texts_of_the_teacher_are_not_the_students(tmp_path: Path) -> None:
    trainer = train(tmp_path, "gkd", lmbda=0.0, seq_kd=True, max_steps=2)
    rows = read_table(tmp_path / "log")
    for row in read_sequences(tmp_path / "log"):
        assert row["on_policy"] is False
        text = trainer.processing_class.decode(
            rows["token_id"][rows["sequence_id"] == row["sequence_id"]]
        )
        assert "It is" not in text


@pytest.mark.long
def test_a_run_that_resumes_goes_on_with_its_kept_texts(tmp_path: Path) -> None:
    """Their teacher's prompts stand in the log, too."""
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    recorder = {"fixed_sequences": 3, "fixed_every": 2}
    train(tmp_path, "sdft", recorder=recorder, **saving)
    trainer = make_sdft(tmp_path, **saving)
    settings: dict[str, Any] = {"every": 1, "quiet": True, **recorder}
    with attach(trainer, Recorder(tmp_path / "log", **settings)):
        trainer.train(resume_from_checkpoint=str(tmp_path / "trainer/checkpoint-2"))
    fixed = read_table(tmp_path / "log", "fixed")
    texts = [
        set(fixed["sequence_id"][fixed["step"] == s].tolist()) for s in np.unique(fixed["step"])
    ]
    assert len(texts) == 3
    assert texts[0] == texts[1] == texts[2]
    assert manifest(tmp_path / "log", attempt=1)["dropped"] == []


def test_gradients_of_kept_texts_are_summed(tmp_path: Path) -> None:
    recorder = {"fixed_sequences": 3, "fixed_every": 2, "gradient_types": range(320)}
    train(tmp_path, "gkd", recorder={**recorder, "columns": ["grad_norm"]})
    from rocktok.log import load_gradients

    log = rocktok.open(tmp_path / "log")
    step = log.complete_steps("gradients")[0]
    sums = load_gradients(log, step)
    rows = read_table(tmp_path / "log", "fixed", ["grad_norm"])
    mine = rows["step"] == step
    norms = rows["grad_norm"][mine].sum(dtype=np.float64)
    assert sums.norm_HT.sum() == pytest.approx(norms, rel=1e-12)


# --- refusals ----------------------------------------------------------------------------------


def refusal(trainer: Any, recorder: Recorder) -> str:
    with pytest.raises(HookError) as caught:
        attach(trainer, recorder)
    return str(caught.value)


def test_losses_across_tokenizers_are_refused(tmp_path: Path) -> None:
    trainer = make_gold(tmp_path)
    trainer.use_uld_loss, trainer.teacher_tokenizer = True, trainer.processing_class
    said = refusal(trainer, Recorder(tmp_path / "log"))
    assert said.startswith("attach: GOLDTrainer has use_uld_loss=True: its loss compares sorted or")
    assert not (tmp_path / "log").exists()
    # Without a tokenizer of the teacher the trainer itself takes its usual loss.
    trainer.teacher_tokenizer = None
    attach(trainer, Recorder(tmp_path / "log")).detach()


def test_generated_trainers_of_unsloth_are_refused(tmp_path: Path) -> None:
    class UnslothGKDTrainer(GKDTrainer):  # type: ignore[misc]
        pass

    trainer = make_gkd(tmp_path, kind=UnslothGKDTrainer)
    said = refusal(trainer, Recorder(tmp_path / "log"))
    assert said.startswith("attach: UnslothGKDTrainer was generated by Unsloth")
    Compiled = type("GKDTrainer", (GKDTrainer,), {"__module__": "unsloth_compiled_cache.X"})
    assert "was generated by Unsloth" in refusal(
        make_gkd(tmp_path, kind=Compiled), Recorder(tmp_path / "log")
    )


@pytest.mark.parametrize(
    ("name", "owner", "function"),
    [
        ("gkd", GKDTrainer, "generalized_jsd_loss"),
        ("gkd", GKDTrainer, "compute_loss"),
        ("gkd", GKDTrainer, "generate_on_policy_outputs"),
        ("gold", GOLDTrainer, "generalized_jsd_loss"),
        ("sdft", SDFTTrainer, "_compute_self_distillation_loss"),
        ("sdft", SDFTTrainer, "_prepare_training_batch"),
        ("sdft", sdft_trainer, "compute_full_logit_self_distillation_loss"),
        ("iw_opd", IWOPDTrainer, "_compute_iw_opd_loss"),
    ],
)
def test_an_unknown_signature_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, owner: Any, function: str
) -> None:
    def other(something: int, new: int) -> None:
        raise AssertionError("never called")

    trainer = MAKE[name](tmp_path, max_steps=1)
    monkeypatch.setattr(owner, function, other)
    said = refusal(trainer, Recorder(tmp_path / "log"))
    assert f".{function} of trl 1.16.0 lacks " in said
    assert " and has the unknown something, new; " in said
    assert said.endswith("use trl 1.16 or a newer rocktok")
    monkeypatch.delattr(owner, function)
    said = refusal(trainer, Recorder(tmp_path / "log"))
    assert function in said
    assert said.endswith("use trl 1.16 or a newer rocktok")


def test_a_loss_that_is_not_called_any_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute_loss(
        self: Any, model: Any, inputs: Any, return_outputs: Any, num_items_in_batch: Any
    ) -> None:
        raise AssertionError("never called")

    trainer = make_gkd(tmp_path)
    monkeypatch.setattr(GKDTrainer, "compute_loss", compute_loss)
    assert "compute_loss does not call generalized_jsd_loss; use trl 1.16" in refusal(
        trainer, Recorder(tmp_path / "log")
    )


def test_what_cannot_be_had_is_refused(tmp_path: Path) -> None:
    trainer = make_sdft(tmp_path, temperature=0.5)
    recorder = partial(Recorder, tmp_path / "log")
    assert "divides logits by its temperature of 0.5 before its loss; use temperature=1" in refusal(
        trainer, recorder(gradient_types=[1])
    )
    assert "cannot be generated before training: SDFTTrainer makes its texts batch by" in refusal(
        trainer, recorder(fixed_at_start=True)
    )
    trainer.use_teacher_server = True
    assert "SDFTTrainer has use_teacher_server=True" in refusal(trainer, recorder())
    other = make_sdpo(tmp_path)
    other.args.distillation_weight = 0.0
    assert "has distillation_weight=0, so that it does not distil" in refusal(other, recorder())
    third = make_iw_opd(tmp_path)
    third.use_teacher_server = True
    assert "IWOPDTrainer has use_teacher_server=True" in refusal(third, recorder())


@pytest.mark.parametrize("name", ["gkd", "sdft"])
def test_the_example_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The block as it stands, with a trainer of tiny models."""
    text = (ROOT / "docs/trainers.md").read_text()
    block = text.partition("<!-- trainers -->")[2].partition("```python\n")[2].partition("```")[0]
    trainer = MAKE[name](tmp_path, max_steps=1)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "trainers.md", "exec"), {"trainer": trainer})
    assert rocktok.open("runs/mine").complete_steps("rollout") == [0]


def test_the_documentation_names_every_trainer_and_the_version() -> None:
    text = (ROOT / "docs/trainers.md").read_text()
    for _, name, _, _ in TRAINERS:
        assert f"### {name}\n" in text
    assert f"trl {TESTED_TRL}." in text
