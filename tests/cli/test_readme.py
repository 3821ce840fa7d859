"""The README is run: its commands on the sample, its Python, and its table of columns."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok import schema
from rocktok.analyses import analyses
from rocktok.report.clusters import OTHER, RULES
from tests.paths import ROOT
from tests.processes import run_command

README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("rocktok ")]


def _parameters() -> Iterator[Any]:
    """The first line of each command; the others take longer than they tell more."""
    seen = set()
    for line in _commands():
        command = line.split()[1]
        yield pytest.param(line, marks=[pytest.mark.long] if command in seen else [])
        seen.add(command)


@pytest.mark.parametrize("line", _parameters())
def test_commands_of_the_readme(line: str, tmp_path: Path) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = [str(ROOT / w) if w.startswith("sample_data") else w for w in words]
    code, printed, error = run_command(*words, cwd=tmp_path)
    assert code == 0, error
    assert printed or "-o" in words


def test_what_the_readme_shows_is_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = [block for block in _blocks("console") if "sample_data" in block]
    assert shown
    for block in shown:
        line, _, output = block.partition("\n")
        assert run_command(*shlex.split(line)[2:]) == (0, output, "")


def test_every_command_is_in_the_readme() -> None:
    shown = {line.split()[1] for line in _commands()}
    # What needs models of the user's is shown, and tested elsewhere.
    elsewhere = [line for block in _blocks("console") for line in block.splitlines()]
    shown |= {line.split()[2] for line in elsewhere if line.startswith("$ rocktok ")}
    assert shown == set(analyses())


@pytest.mark.long
def test_python_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = [b for b in _blocks("python") if "rocktok.open" in b]
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


@pytest.mark.long
def test_the_loop_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example as it stands, with models that know nothing yet."""
    import torch

    from tests.trl_models import PROMPTS, make_model, make_tokenizer

    block = README.partition("<!-- own-loop -->")[2].partition("```python\n")[2].partition("```")[0]
    student, teacher, tokenizer = make_model(1), make_model(2, hidden=48), make_tokenizer()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    updates: list[int] = []

    def sample(prompts: list[list[int]]) -> list[list[int]]:
        texts = [student.generate(torch.tensor([p]), do_sample=True, max_new_tokens=6,
                                  pad_token_id=1)[0, len(p) :] for p in prompts]  # fmt: skip
        return [text.tolist() for text in texts]

    def update(batch: list[Any]) -> None:
        updates.append(len(batch))
        for parameter in student.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()

    monkeypatch.chdir(tmp_path)
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    names = {
        "student": student, "teacher": teacher, "tokenizer": tokenizer, "sample": sample,
        "update": update, "prompts": prompts, "steps": 2,
    }  # fmt: skip
    exec(compile(block, "README.md", "exec"), names)
    log = rocktok.open("runs/mine")
    assert updates == [8, 8]
    assert log.complete_steps("rollout") == [0]
    assert log.complete_steps("fixed") == [0, 2]
    assert log.vocab.text(tokenizer.eos_token_id) == "<|end|>"
    found = rocktok.info(log, verify=True)
    assert (found.damage, found.sequences, found.prompts) == ((), 24 + 16, 24)
    assert rocktok.detect(log, min_frequency=1).table is not None


def test_the_table_of_clusters_is_the_rules() -> None:
    rows = ["| cluster | what |", "|---|---|"]
    for rule in (*RULES, OTHER):
        meaning = rule.meaning.replace("|", "\\|")
        rows.append(f"| {rule.name} | {meaning} |")
    assert "\n".join(rows) in (ROOT / "docs" / "report.md").read_text()


def test_the_table_of_columns_is_the_schema() -> None:
    rows = ["| column | type | unit | | meaning |", "|---|---|---|---|---|"]
    for column in schema.OCCURRENCE_COLUMNS:
        needed = "required" if column.required else ""
        rows.append(
            f"| `{column.name}` | {column.type} | {column.unit} | {needed} | {column.meaning} |"
        )
    assert "\n".join(rows) in README
