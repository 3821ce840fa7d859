"""README and docs are run: their commands on the sample, and their Python."""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.analyses import analyses
from rocktok.report.clusters import OTHER, RULES
from tests.paths import ROOT
from tests.processes import run_command

README = (ROOT / "README.md").read_text()
RECORDING = (ROOT / "docs" / "recording.md").read_text()
COMMANDS = (ROOT / "docs" / "commands.md").read_text()


def _blocks(language: str) -> list[str]:
    text = "\n".join((README, RECORDING, COMMANDS))
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("rocktok ")]


def _parameters() -> Iterator[Any]:
    """The first line of each command; the others take longer than they tell more."""
    seen = set()
    for line in _commands():
        command = line.split()[1]
        further = [pytest.mark.long, pytest.mark.exhaustive]
        yield pytest.param(line, marks=further if command in seen else [])
        seen.add(command)


@pytest.mark.parametrize("line", list(_parameters()))
def test_commands(line: str, tmp_path: Path) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = [str(ROOT / w) if w.startswith("sample_data") else w for w in words]
    code, printed, error = run_command(*words, cwd=tmp_path)
    assert code == 0, error
    assert printed or "-o" in words


def test_what_is_shown_is_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = [block for block in _blocks("console") if "sample_data" in block]
    assert shown
    for block in shown:
        line, _, output = block.partition("\n")
        assert run_command(*shlex.split(line)[2:]) == (0, output, "")


def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    monkeypatch.chdir(tmp_path)
    how = doctest.NORMALIZE_WHITESPACE
    tutorial = str(ROOT / "docs" / "tutorial.md")
    assert doctest.testfile(tutorial, module_relative=False, optionflags=how) == (0, 25)


def test_every_command_is_shown() -> None:
    shown = {line.split()[1] for line in _commands()}
    # What needs models of the user's is shown, and tested elsewhere.
    elsewhere = [line for block in _blocks("console") for line in block.splitlines()]
    shown |= {line.split()[2] for line in elsewhere if line.startswith("$ rocktok ")}
    assert shown == set(analyses())
    assert {name for name in analyses() if f"`rocktok {name}" not in README} == set()


def test_the_readme_takes_five_minutes() -> None:
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    assert len(prose.split()) <= 900


def test_links_of_the_readme_work_elsewhere() -> None:
    """A package index shows it, too: links are absolute, and lead to what is here."""
    links = re.findall(r"\]\(([^)]*)\)", README)
    assert links
    for link in links:
        assert link.startswith("https://")
        here = re.sub(r"^https://[^/]*/rocktok/rocktok/(blob/)?main/", "", link)
        if here != link:
            path, _, anchor = here.partition("#")
            text = (ROOT / path).read_bytes()
            assert not anchor or f"\n## {anchor}\n".encode() in text


@pytest.mark.long
def test_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = [b for b in _blocks("python") if "rocktok.open" in b]
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "commands.md", "exec"), {})


@pytest.mark.long
def test_the_loop_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example as it stands, with models that know nothing yet."""
    import torch

    from tests.trl_models import PROMPTS, make_model, make_tokenizer

    block = (
        RECORDING.partition("<!-- own-loop -->")[2].partition("```python\n")[2].partition("```")[0]
    )
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
    exec(compile(block, "recording.md", "exec"), names)
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
