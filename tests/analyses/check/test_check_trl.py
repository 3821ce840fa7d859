"""`check` on logs of real TRL runs: one that is healthy, and one with each disease."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.analyses.check.result import CheckResult
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach
from tests.trained_models import OTHER_END_ID, PROMPTS, looping, saved_teacher, trained_model
from tests.trl_models import END, PAD, VOCAB_SIZE, make_tokenizer, make_trainer

pytestmark = pytest.mark.long

TEMPLATE = "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}<bot>"


def train(folder: Path, student: Any, teacher: Any, **options: Any) -> CheckResult:
    """Train for two steps, each of all prompts, and check the log."""
    settings = {"max_steps": 2, "per_device_train_batch_size": 32, "max_completion_length": 60}
    trainer = make_trainer(
        folder, prompts=PROMPTS, student=student, teacher=teacher, **{**settings, **options}
    )
    recorder = Recorder(
        folder / "log", every=1, fixed_sequences=32, fixed_every=1, columns="lenses"
    )
    with attach(trainer, recorder):
        trainer.train()
    assert rocktok.info(folder / "log", verify=True).damage == ()
    return rocktok.check(folder / "log", replicates=200, rocks=())


def bad(result: CheckResult) -> dict[str, str]:
    return {
        f["name"]: f["severity"]
        for f in result.findings
        if f["severity"] in ("warning", "problem")
    }  # fmt: skip


def test_a_healthy_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = saved_teacher(tmp_path / "teacher", trained_model(2, 120))
    result = train(tmp_path, trained_model(1, 80), teacher)
    assert [f["name"] for f in result.findings if f["severity"] != "ok"] == []
    assert result["on_policy"]["low"] < 0 < result["on_policy"]["high"]
    said = capsys.readouterr().err
    assert "the student" not in said
    assert "differ" not in said
    run = json.loads((tmp_path / "log" / "run.json").read_text())
    width = len(make_tokenizer())
    assert run["tokenizers"] == {
        "teacher_tokenizer": "found",
        "vocab_width": {"student": width, "teacher": width},
        "tokens_differ": 0,
        "special_differ": [],
        "template": {"same": True, "first_difference": None},
    }


@pytest.mark.long
@pytest.mark.exhaustive
def test_a_teacher_with_another_end_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained_model(2, 120, end=OTHER_END_ID)
    teacher = saved_teacher(tmp_path / "teacher", model, eos=PAD)
    result = train(tmp_path, trained_model(1, 80), teacher)
    assert bad(result)["terminal_ids"] == "problem"
    assert bad(result)["end_token"] == "problem"
    assert bad(result)["tokenizer"] == "warning"
    assert result["terminal_ids"]["details"]["teacher"] == [OTHER_END_ID]
    assert "loss_mismatch" not in bad(result)
    said = capsys.readouterr().err
    assert (
        "rocktok: the student ends its texts with token ids 0, the teacher with 1: the student's "
        "texts may become too long or end too early\n"
    ) in said
    assert (
        f"rocktok: special tokens differ: eos_token {END!r} (0) in the student's, {PAD!r} (1) in "
        "the teacher's\n"
    ) in said


def test_a_template_with_one_more_line_break(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = saved_teacher(tmp_path / "teacher", trained_model(2, 120), template=f"{TEMPLATE}\n\n")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    result = train(tmp_path, trained_model(1, 80), teacher, tokenizer=tokenizer)
    assert bad(result) == {"template": "warning"}
    where = "at character 20, the end (student), '\\n' (teacher)"
    assert where in result["template"]["text"]
    said = capsys.readouterr().err
    assert (
        f"rocktok: the chat templates of student and teacher render a conversation differently: "
        f"{where}\n"
    ) in said


def test_texts_that_are_cut(tmp_path: Path) -> None:
    teacher = saved_teacher(tmp_path / "teacher", trained_model(2, 120))
    result = train(tmp_path, trained_model(1, 80), teacher, max_completion_length=16)
    assert bad(result)["truncated"] == "problem"
    assert set(bad(result)) <= {"truncated", "teacher_end", "student_end"}
    assert "at 16 tokens" in result["truncated"]["text"]


@pytest.mark.long
@pytest.mark.exhaustive
def test_texts_that_loop(tmp_path: Path) -> None:
    teacher = saved_teacher(tmp_path / "teacher", trained_model(2, 20, looping))
    student = trained_model(1, 100, looping)
    result = train(tmp_path, student, teacher, max_completion_length=80)
    assert bad(result)["loops"] == "problem"
    assert result["loops"]["value"] > 0.3


def test_heads_that_are_wider_than_the_tokenizer(tmp_path: Path) -> None:
    teacher = saved_teacher(tmp_path / "teacher", trained_model(2, 5, width=VOCAB_SIZE))
    result = train(tmp_path, trained_model(1, 2, width=VOCAB_SIZE), teacher)
    assert bad(result)["vocabulary"] == "warning"
    assert result["vocabulary"]["details"]["student_width"] == VOCAB_SIZE
    assert result["vocabulary"]["details"]["tokens"] == len(make_tokenizer())
