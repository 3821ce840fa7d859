"""Under TRL: likeliest tokens and sketches against the models' own, terminal ids, and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rocktok
from rocktok.files import place
from rocktok.hooks import Recorder
from rocktok.hooks.contexts import projection
from rocktok.hooks.fixed_set import FixedSet, inherit
from rocktok.hooks.trl import attach
from tests.trl_models import END, PAD, make_model, make_tokenizer, make_trainer, manifest

BESIDE = ["student_ids", "student_probs", "teacher_ids", "teacher_probs"]
RECORDER: dict[str, Any] = {"every": 4, "fixed_sequences": 7, "fixed_every": 2}


def train(folder: Path, resume: str | None = None, **options: Any) -> Any:
    recorder = {**RECORDER, **options.pop("recorder", {})}
    trainer = make_trainer(folder, **{"max_steps": 4, **options})
    with attach(trainer, Recorder(folder / "log", **recorder)):
        trainer.train(resume_from_checkpoint=resume)
    return trainer


def rows(log: Path, table: str, *columns: str) -> dict[str, Any]:
    """In the order of the keys."""
    batches = list(rocktok.open(log).scan(table, columns))
    found = {n: np.concatenate([b.columns[n] for b in batches]) for n in batches[0].columns}
    order = np.lexsort((found["position"], found["sequence_id"], found["step"]))
    return {name: values[order] for name, values in found.items()}


def in_float64(log: Path, temperature: float) -> dict[str, Any]:
    """What both models say of the kept texts at step 0, by sequence id."""
    student, teacher = make_model(1).double().eval(), make_model(2, hidden=48).double().eval()
    found: dict[str, list[Any]] = {"p": [], "q": [], "hidden": []}
    for text in sorted(inherit(place(log), 10_000).kept, key=lambda text: text.sequence_id):
        prompt = text.prompt_token_ids.tolist()
        ids = torch.tensor([[*prompt, *text.completion_token_ids.tolist()]])
        places = slice(len(prompt) - 1, -1)
        with torch.no_grad():
            hidden = teacher.model(input_ids=ids).last_hidden_state[0, places]
            for name, model in (("p", student), ("q", teacher)):
                logits = model(input_ids=ids).logits[0, places] / temperature
                found[name].append(logits.softmax(-1).numpy())
        found["hidden"].append(hidden.numpy())
    return {name: np.concatenate(values) for name, values in found.items()}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_rows_beside_kept_text_are_those_of_the_models(tmp_path: Path, temperature: float) -> None:
    train(tmp_path, temperature=temperature, recorder={"alternatives": 3})
    expected = in_float64(tmp_path / "log", temperature)
    found = rows(tmp_path / "log", "alternatives", *BESIDE)
    fixed = rows(tmp_path / "log", "fixed")
    for name in ("step", "sequence_id", "position"):
        np.testing.assert_array_equal(found[name], fixed[name])
    first_N = found["step"] == 0
    for who, probability in (("student", "p"), ("teacher", "q")):
        probability_NV = expected[probability]
        ids_NK = np.argsort(-probability_NV, axis=1, kind="stable")[:, :3]
        np.testing.assert_array_equal(found[f"{who}_ids"][first_N], ids_NK)
        # Half precision: 11 bits.
        np.testing.assert_allclose(
            found[f"{who}_probs"][first_N],
            np.take_along_axis(probability_NV, ids_NK, axis=1),
            rtol=2**-11 + 1e-4,
            atol=1e-7,
        )
    contexts = rows(tmp_path / "log", "contexts", "context")
    assert (contexts["step"] == 0).all()
    for name in ("sequence_id", "position"):
        np.testing.assert_array_equal(contexts[name], fixed[name][first_N])
    hidden_NH = expected["hidden"]
    value_NK = (hidden_NH - hidden_NH.mean(axis=0)) @ projection(48)
    bits_NK = np.unpackbits(contexts["context"], axis=1, bitorder="little")
    clear_NK = np.abs(value_NK) > 1e-4 * np.abs(value_NK).mean()
    assert clear_NK.mean() > 0.999
    np.testing.assert_array_equal(bits_NK[clear_NK], (value_NK > 0)[clear_NK])


def test_tokens_that_are_not_scored_have_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a tool wrote them."""
    accept = FixedSet.accept

    def masked(self: FixedSet, rollouts: list[Any]) -> list[Any]:
        for rollout in rollouts:
            rollout.loss_mask[2:5] = 0
        return accept(self, rollouts)

    monkeypatch.setattr(FixedSet, "accept", masked)
    train(tmp_path)
    fixed = rows(tmp_path / "log", "fixed")
    assert not np.isin(fixed["position"], [2, 3, 4]).any()
    for table, step in (("alternatives", None), ("contexts", 0)):
        found = rows(tmp_path / "log", table)
        here_N = np.ones(len(fixed["step"]), bool) if step is None else fixed["step"] == step
        for name in ("step", "sequence_id", "position"):
            np.testing.assert_array_equal(found[name], fixed[name][here_N])


def test_neither_where_neither_is_asked_for(tmp_path: Path) -> None:
    train(tmp_path, recorder={"alternatives": 0, "contexts": False}, max_steps=2)
    assert {path.name for path in (tmp_path / "log").iterdir()} >= {"fixed", "rollout"}
    assert not (tmp_path / "log/alternatives").exists()
    assert not (tmp_path / "log/contexts").exists()


def test_a_failing_sketch_leaves_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rocktok.errors import RocktokWarning
    from rocktok.hooks.trl import scoring

    calls, original = [], scoring.project_hidden

    def project(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory")
        return original(*args)

    monkeypatch.setattr(scoring, "project_hidden", project)
    message = (
        r"contexts could not be computed \(RuntimeError: CUDA out of memory\). Training continues"
    )
    with pytest.warns(RocktokWarning, match=message):
        train(tmp_path)
    found = manifest(tmp_path / "log")
    assert found["dropped"] == []
    assert found["steps"]["fixed"] == found["steps"]["alternatives"] == [0, 2, 4]
    # The next scoring makes them.
    assert found["steps"]["contexts"] == [2]


@pytest.mark.long
def test_a_resumed_run_makes_them_once(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    train(tmp_path, **saving)
    train(tmp_path, str(tmp_path / "trainer/checkpoint-2"), **saving)
    log = rocktok.open(tmp_path / "log")
    assert log.complete_steps("alternatives") == log.complete_steps("fixed") == [0, 2, 4]
    assert log.complete_steps("contexts") == [0]
    assert manifest(tmp_path / "log", attempt=1)["steps"].get("contexts") is None
    # From before they were made: what is void is made again, of the same teacher and text.
    before = rows(tmp_path / "log", "contexts", "context")
    train(tmp_path, **saving, recorder={"supersede": True})
    assert manifest(tmp_path / "log", attempt=2)["steps"]["contexts"] == [0]
    again = rows(tmp_path / "log", "contexts", "context")
    assert set(before["sequence_id"].tolist()).isdisjoint(again["sequence_id"].tolist())


# --- what run.json says of the tokens ----------------------------------------------------------


def run_of(folder: Path, trainer: Any) -> dict[str, Any]:
    with attach(trainer, Recorder(folder / "log", fixed_sequences=0)):
        trainer.train()
    content = json.loads((folder / "log/run.json").read_text())
    assert isinstance(content, dict)
    return content


def test_terminal_ids_of_both_models(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    run = run_of(tmp_path, trainer)
    assert run["terminal_ids"] == {"student": [0], "teacher": [0]}
    assert run["special_ids"] == [0, 1]
    assert run["max_completion_length"] == 12
    assert "contexts" not in run


def test_terminal_ids_of_configurations_templates_and_the_teachers_tokenizer(
    tmp_path: Path,
) -> None:
    # A teacher from a directory, whose tokenizer ends with another token.
    other = make_tokenizer()
    other.eos_token = PAD
    other.save_pretrained(tmp_path / "teacher")
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.teacher_model.config._name_or_path = str(tmp_path / "teacher")
    trainer.teacher_model.generation_config.eos_token_id = [4, 9]
    tokenizer = trainer._tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|turn|>\n{% endfor %}"
    )
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    run = run_of(tmp_path, trainer)
    assert run["terminal_ids"] == {"student": [0, turn], "teacher": [1, 4, 9]}
    assert run["special_ids"] == [0, 1, turn]
    assert tokenizer.convert_tokens_to_ids(END) == 0
