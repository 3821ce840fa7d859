"""Kept text before the first step under TRL: which, scored when, and training that is the same."""

from __future__ import annotations

import random
from collections import Counter
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import TrainerCallback
from trl.trainer.distillation_trainer import DistillationTrainer

import rocktok
from rocktok.errors import HookError, RocktokWarning
from rocktok.files import place
from rocktok.hooks import Recorder
from rocktok.hooks.fixed_set import inherit
from rocktok.hooks.trl import attach
from rocktok.hooks.trl import texts as trl_texts
from rocktok.hooks.trl.untouched import untouched
from tests.hooks.test_trl_training import random_state
from tests.trl_models import PROMPTS, make_trainer, manifest, read_sequences, read_table

RECORDER: dict[str, Any] = {"every": 1, "fixed_sequences": 10, "fixed_every": 2}


def train(folder: Path, trainer: Any = None, **recorder: Any) -> Any:
    trainer = trainer or make_trainer(folder, max_steps=4)
    with attach(trainer, Recorder(folder / "log", **{**RECORDER, **recorder})):
        trainer.train()
    return trainer


def kept(folder: Path) -> list[Any]:
    return list(inherit(place(folder / "log"), 10_000).kept)


def prompts_of(trainer: Any, texts: list[Any]) -> list[str]:
    return [trainer._tokenizer.decode(text.prompt_token_ids) for text in texts]


# --- which texts -------------------------------------------------------------------------------


def test_the_same_text_is_there_from_the_first_step_to_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = train(tmp_path)
    rows = read_table(tmp_path / "log", "fixed")
    assert manifest(tmp_path / "log")["steps"]["fixed"] == [0, 2, 4]
    assert manifest(tmp_path / "log")["mismatches"] == {}
    texts = kept(tmp_path)
    assert len(set(prompts_of(trainer, texts))) == 10
    for text in texts:
        assert text.step == 0
        for step in (0, 2, 4):
            mine = (rows["step"] == step) & (rows["sequence_id"] == text.sequence_id)
            assert rows["token_id"][mine].tolist() == text.completion_token_ids.tolist()
    listed = Counter(row["sequence_id"] for row in read_sequences(tmp_path / "log"))
    assert set(listed.values()) == {1}
    own = {text.sequence_id for text in texts}
    assert own <= set(listed)
    # The prompts are those that training comes to first, four a step.
    theirs = [row for row in read_sequences(tmp_path / "log") if row["sequence_id"] not in own]
    for step in (0, 1):
        mine = {row["prompt_id"] for row in theirs if row["step"] == step}
        assert {text.prompt_id for text in texts[4 * step : 4 * step + 4]} == mine
    # The loss falls: these steps are the steepest.
    means = [rows["loss"][rows["step"] == step].mean() for step in (0, 2, 4)]
    assert means == sorted(means, reverse=True)
    said = capsys.readouterr().err
    assert "text of 10 prompts kept now, scored at steps 0, 2, 4" in said
    tokens = sum(len(text.completion_token_ids) for text in texts)
    assert f"rocktok: kept 10 texts, {tokens:,} tokens: generated in " in said


@pytest.mark.long
def test_a_prompt_that_stands_in_the_data_twice_is_kept_once(tmp_path: Path) -> None:
    prompts = [PROMPTS[i % 5] for i in range(24)]
    trainer = make_trainer(tmp_path, prompts=prompts, max_steps=2, domain=True)
    train(tmp_path, trainer)
    assert sorted(prompts_of(trainer, kept(tmp_path))) == sorted(PROMPTS[:5])
    assert {text.domain for text in kept(tmp_path)} <= {"small", "large"}


@pytest.mark.long
def test_fewer_prompts_than_asked_for_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The last prompt is in no batch of training.
    trainer = make_trainer(tmp_path, prompts=PROMPTS[:5], max_steps=1)
    train(tmp_path, trainer)
    assert sorted(prompts_of(trainer, kept(tmp_path))) == sorted(PROMPTS[:5])
    assert "kept text of 5 prompts; training had no more, and fixed_sequences=10" in (
        capsys.readouterr().err
    )


@pytest.mark.long
@pytest.mark.parametrize("at_start", [True, False])
def test_several_rollouts_of_a_prompt(tmp_path: Path, at_start: bool) -> None:
    trainer = make_trainer(tmp_path, prompts=PROMPTS[:4], max_steps=4)
    options: dict[str, Any] = {"fixed_sequences": 3, "fixed_rollouts": 2}
    train(tmp_path, trainer, fixed_at_start=at_start, **options)
    texts = kept(tmp_path)
    assert Counter(Counter(text.prompt_id for text in texts).values()) == {2: 3}
    by_prompt: dict[str, list[list[int]]] = {}
    for text in texts:
        by_prompt.setdefault(text.prompt_id, []).append(text.completion_token_ids.tolist())
    assert all(one != other for one, other in by_prompt.values())
    assert manifest(tmp_path / "log")["steps"]["fixed"] == [0, 2, 4] if at_start else [2, 4]


@pytest.mark.long
def test_conversations_are_prompts_too(tmp_path: Path) -> None:
    conversations = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    data = Dataset.from_dict({"prompt": conversations})
    trainer = make_trainer(tmp_path, max_steps=2, dataset=data)
    trainer._tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    train(tmp_path, trainer)
    assert set(prompts_of(trainer, kept(tmp_path))) <= set(PROMPTS)
    assert manifest(tmp_path / "log")["steps"]["fixed"] == [0, 2]


# --- where it cannot be ------------------------------------------------------------------------


class OwnGeneration(DistillationTrainer):  # type: ignore[misc]
    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        return super()._generate_single_turn(*args, **kwargs)


def streaming(folder: Path) -> Any:
    stream = IterableDataset.from_generator(lambda: iter([{"prompt": p} for p in PROMPTS]))
    return make_trainer(folder, max_steps=4, dataset=stream)


def with_tools(folder: Path) -> Any:
    trainer = make_trainer(folder, max_steps=4)
    trainer.tools = [len]
    return trainer


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (streaming, "the training data are a stream"),
        (with_tools, "the trainer's tools would be called"),
        (
            lambda folder: make_trainer(folder, max_steps=4, trainer_class=OwnGeneration),
            "the trainer overrides _generate_single_turn",
        ),
    ],
)
def test_what_cannot_be_generated_without_a_trace(tmp_path: Path, make: Any, why: str) -> None:
    with pytest.raises(HookError) as caught:
        attach(make(tmp_path), Recorder(tmp_path / "log", fixed_at_start=True))
    assert str(caught.value) == (
        f"attach: kept text cannot be generated before training: {why}; leave out "
        "fixed_at_start=True"
    )


@pytest.mark.long
def test_a_stream_is_kept_as_training_comes_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, streaming(tmp_path))
    assert manifest(tmp_path / "log")["steps"]["fixed"] == [3, 4]
    assert "kept during training (the training data are a stream)" in (capsys.readouterr().err)


def test_vllm_is_asked_only_where_the_user_says_so(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=4)
    trainer.use_vllm = True
    assert "vLLM's random state" in str(trl_texts.why_not_unasked(trainer))
    assert trl_texts.why_not(trainer) is None


@pytest.mark.long
def test_generation_that_fails_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = DistillationTrainer._generate_single_turn, []

    @wraps(original)
    def second_fails(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory")
        return original(self, *args, **kwargs)

    trainer = make_trainer(tmp_path, max_steps=4)
    monkeypatch.setattr(DistillationTrainer, "_generate_single_turn", second_fails)
    with pytest.warns(RocktokWarning, match=r"generated before training \(RuntimeError: CUDA"):
        train(tmp_path, trainer)
    assert manifest(tmp_path / "log")["steps"]["fixed"] == [3, 4]
    assert len(kept(tmp_path)) == 10


# --- resuming ----------------------------------------------------------------------------------


class Crash(TrainerCallback):  # type: ignore[misc]
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise RuntimeError("node failure")


@pytest.mark.long
def test_a_resumed_run_goes_on_with_the_text_of_the_start(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(RuntimeError, match="node failure"):
        train(tmp_path, make_trainer(tmp_path, callbacks=[Crash()], **options))
    before = [text.sequence_id for text in kept(tmp_path)]
    trainer = make_trainer(tmp_path, **options)
    with attach(trainer, Recorder(tmp_path / "log", **RECORDER)):
        trainer.train(resume_from_checkpoint=str(tmp_path / "trainer/checkpoint-2"))
    assert [text.sequence_id for text in kept(tmp_path)] == before
    log = rocktok.open(tmp_path / "log")
    assert log.complete_steps("fixed") == [0, 2, 4]
    assert log.complete_steps("rollout") == [0, 1, 2, 3]


@pytest.mark.long
def test_a_start_from_step_0_makes_its_own_text(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="node failure"):
        train(tmp_path, make_trainer(tmp_path, callbacks=[Crash()], max_steps=4))
    train(tmp_path, make_trainer(tmp_path, max_steps=4))
    assert {text.sequence_id >> 53 for text in kept(tmp_path)} == {1}
    assert rocktok.open(tmp_path / "log").complete_steps("fixed") == [0, 2, 4]


@pytest.mark.long
def test_a_log_that_begins_at_a_checkpoint_has_text_from_there(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    make_trainer(tmp_path, **options).train()
    trainer = make_trainer(tmp_path, **options)
    checkpoint = str(tmp_path / "trainer/checkpoint-2")
    for attempt in range(2):
        with attach(trainer, Recorder(tmp_path / "log", **RECORDER)):
            trainer.train(resume_from_checkpoint=checkpoint)
        # The second resumes from the very step of the first's text, which is void then.
        assert {text.sequence_id >> 53 for text in kept(tmp_path)} == {attempt}
        assert rocktok.open(tmp_path / "log").complete_steps("fixed") == [2, 4]


# --- training is the same ----------------------------------------------------------------------


@pytest.mark.long
def test_rollouts_of_training_are_what_they_are_without(tmp_path: Path) -> None:
    """The order of the data, and what is drawn for each rollout."""
    found = []
    for at_start in (True, False):
        folder = tmp_path / str(at_start)
        trainer = make_trainer(folder, max_steps=4, gradient_accumulation_steps=2)
        train(folder, trainer, fixed_at_start=at_start)
        rows = read_table(folder / "log", "rollout")
        found.append([rows["step"], rows["token_id"], rows["loss"]])
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_random_state_of_devices_is_put_back(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.model_wrapped.cuda()
    before = torch.cuda.get_rng_state().tolist()
    with untouched(trainer):
        torch.rand(3, device="cuda")
    assert torch.cuda.get_rng_state().tolist() == before


def test_modes_and_random_state_are_put_back(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.model.train()
    trainer.model.lm_head.eval()
    before = random_state(), [module.training for module in trainer.model.modules()]
    with pytest.raises(ValueError, match="inside"), untouched(trainer):
        assert not any(module.training for module in trainer.model.modules())
        torch.rand(3), np.random.rand(3), random.random()
        raise ValueError("inside")
    assert (random_state(), [module.training for module in trainer.model.modules()]) == before
