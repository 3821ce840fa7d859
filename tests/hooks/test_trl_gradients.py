"""Gradient sums under TRL: those of the kept texts, and training that notices nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rocktok
from rocktok.errors import HookError, RocktokWarning
from rocktok.files import place
from rocktok.hashing import halves, prompt_hash, sketch
from rocktok.hooks import Recorder
from rocktok.hooks.fixed_set import inherit
from rocktok.hooks.trl import attach
from rocktok.hooks.trl import fixed as trl_fixed
from rocktok.log import StepGradients, load_gradients
from tests.hooks.test_trl_training import assert_same, busy_trainer, outcome, untouched
from tests.trl_models import VOCAB_SIZE, make_trainer, manifest, read_table

__all__ = ["untouched"]  # a fixture: what training leaves without a recorder

#: A temperature, so that the chain factor is not 1.
OPTIONS: dict[str, Any] = {"max_steps": 4, "temperature": 0.8}
RECORDER: dict[str, Any] = {"every": 9, "fixed_sequences": 10, "fixed_every": 2}


def train(folder: Path, **recorder: Any) -> Any:
    trainer = make_trainer(folder, **OPTIONS)
    with attach(trainer, Recorder(folder / "log", **RECORDER, **recorder)):
        trainer.train()
    return trainer


def recomputed(trainer: Any, log: Path) -> dict[str, Any]:
    """Gradients (N, V) of all kept text in float64, one sequence at a time, with their types."""
    parts, tokens, prompts, sequences = [], [], [], []
    models = [model.eval() for model in (trainer.model, trainer.teacher_model)]
    for text in inherit(place(log), 100).kept:
        ids = torch.from_numpy(np.concatenate((text.prompt_token_ids, text.completion_token_ids)))
        start = len(text.prompt_token_ids) - 1
        with torch.no_grad():
            raw, other = (m(ids[None].long()).logits[0, start:-1].double() for m in models)
        raw.requires_grad_()
        temperature = OPTIONS["temperature"]
        logp, logq = ((z / temperature).log_softmax(-1) for z in (raw, other))
        (gradient,) = torch.autograd.grad((logp.exp() * (logp - logq)).sum(), raw)
        scored = text.loss_mask != 0
        parts.append(np.asarray(gradient)[scored])
        tokens.append(text.completion_token_ids[scored])
        prompts.append(np.full(scored.sum(), prompt_hash(text.prompt_id), dtype=np.uint64))
        sequences.append(np.full(scored.sum(), text.sequence_id))
    names = ("gradient", "token", "prompt", "sequence")
    values = map(np.concatenate, (parts, tokens, prompts, sequences))
    return dict(zip(names, values, strict=True))


def assert_sums(got: StepGradients, rows: dict[str, Any]) -> None:
    """Within what a forward pass in another batch, in float32, differs by."""
    gradient_NV, token_N = rows["gradient"], rows["token"]
    norm_N = np.linalg.norm(gradient_NV, axis=1)
    half_N = halves(rows["prompt"], got.seed)
    n_N = np.bincount(token_N)[token_N]
    assert set(half_N.tolist()) == {0, 1}

    def close(vector_W: Any, terms: Any) -> None:
        expected = terms.sum(axis=0)
        if got.sketch_dims:
            expected = sketch(expected[None], got.sketch_dims, got.seed)[0]
        tolerance = 2e-4 * np.linalg.norm(terms, axis=1).sum()
        assert np.abs(vector_W - expected).max() <= tolerance

    for half in (0, 1):
        mine_N = half_N == half
        assert got.count_H[half] == mine_N.sum()
        close(got.global_HW[half], gradient_NV[mine_N])
        close(got.balanced_HW[half], (gradient_NV / n_N[:, None])[mine_N])
        for place_T, token in enumerate(got.token_T.tolist()):
            chosen_N = mine_N & (token_N == token)
            assert got.count_HT[half, place_T] == chosen_N.sum()
            close(got.vector_HTW[half, place_T], gradient_NV[chosen_N])
            assert got.norm_HT[half, place_T] == pytest.approx(norm_N[chosen_N].sum(), rel=2e-3)
            squares = (norm_N[chosen_N] ** 2).sum()
            assert got.square_HT[half, place_T] == pytest.approx(squares, rel=4e-3)


def test_sums_are_those_of_the_kept_texts(tmp_path: Path) -> None:
    trainer = train(tmp_path, gradient_types=range(0, VOCAB_SIZE, 2))
    log = rocktok.open(tmp_path / "log")
    assert log.complete_steps("gradients") == log.complete_steps("fixed") == [0, 2, 4]
    assert manifest(tmp_path / "log")["dropped"] == []
    got = load_gradients(log)
    assert (got.step, got.vocab_size, got.sketch_dims) == (4, VOCAB_SIZE, 0)
    rows = recomputed(trainer, tmp_path / "log")
    assert_sums(got, rows)
    types = np.unique(rows["token"])
    assert len(types) > 10
    assert got.token_T.tolist() == types[types % 2 == 0].tolist()


def test_sketches_are_those_of_the_kept_texts(tmp_path: Path) -> None:
    trainer = train(tmp_path, gradient_sketch=256, gradient_seed=3)
    got = load_gradients(rocktok.open(tmp_path / "log"))
    assert (got.sketch_dims, got.seed) == (256, 3)
    rows = recomputed(trainer, tmp_path / "log")
    assert_sums(got, rows)
    assert got.token_T.tolist() == np.unique(rows["token"]).tolist()


def test_norms_are_those_of_the_column(tmp_path: Path) -> None:
    train(tmp_path, gradient_types=range(VOCAB_SIZE))
    got = load_gradients(rocktok.open(tmp_path / "log"))
    rows = read_table(tmp_path / "log", "fixed", ["grad_norm"])
    rows = {name: values[rows["step"] == got.step] for name, values in rows.items()}
    for place_T, token in enumerate(got.token_T.tolist()):
        norms = rows["grad_norm"][rows["token_id"] == token].astype(np.float64)
        assert got.norm_HT[:, place_T].sum() == pytest.approx(norms.sum(), rel=1e-12)
        assert got.square_HT[:, place_T].sum() == pytest.approx((norms**2).sum(), rel=1e-12)
    assert got.count_H.sum() == len(rows["token_id"]) == got.count_HT.sum()


@pytest.mark.long
@pytest.mark.parametrize(
    "recorder", [{"gradient_types": range(40)}, {"gradient_sketch": 256}], ids=["exact", "sketch"]
)
def test_training_is_bit_identical(
    tmp_path: Path, untouched: dict[str, Any], recorder: dict[str, Any]
) -> None:
    trainer = busy_trainer(tmp_path)
    rec = Recorder(tmp_path / "log", every=1, fixed_sequences=6, fixed_every=2, **recorder)
    with attach(trainer, rec):
        trainer.train()
    assert_same(outcome(trainer), untouched)
    assert rocktok.open(tmp_path / "log").complete_steps("gradients") == [0, 2, 4, 6]


@pytest.mark.long
def test_the_rows_of_fixed_are_the_same_bits_with_and_without(tmp_path: Path) -> None:
    train(tmp_path / "with", gradient_types=range(40))
    train(tmp_path / "without")
    one, other = (
        read_table(tmp_path / name / "log", "fixed", ["grad_norm"]) for name in ("with", "without")
    )
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "without/log/gradients").exists()
    assert "gradients" not in manifest(tmp_path / "without/log")["steps"]


def test_types_outside_the_vocabulary_stop_before_training(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, **OPTIONS)
    recorder = Recorder(tmp_path / "log", gradient_types=[3, VOCAB_SIZE])
    with (
        pytest.raises(HookError, match="holds 320, outside the vocabulary of 320"),
        attach(trainer, recorder),
    ):
        trainer.train()
    assert trainer.state.global_step == 0 and not (tmp_path / "log").exists()


def test_no_room_for_the_sums_costs_the_sums_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(trl_fixed, "GradientSums", full)
    with pytest.warns(RocktokWarning, match="step 0 of gradients was not recorded: MemoryError"):
        train(tmp_path, gradient_types=[5])
    log = rocktok.open(tmp_path / "log")
    assert log.complete_steps("fixed") == [0, 2, 4]
    assert log.incomplete_steps("gradients") == [0, 2, 4]


def test_a_batch_that_fails_costs_the_step(tmp_path: Path) -> None:
    original, calls = trl_fixed._inputs, []

    def second_fails(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError
        return original(*args)

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.warns(RocktokWarning, match="positions were scored|MemoryError"),
    ):
        patch.setattr(trl_fixed, "_inputs", second_fails)
        train(tmp_path, gradient_types=range(40))
    log = rocktok.open(tmp_path / "log")
    assert log.complete_steps("gradients") == [2, 4]
    assert log.incomplete_steps("gradients") == [0]
