"""Every command and line of Python in docs/import.md, on files of the documented layouts."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from rocktok.importers import kinds
from tests.importers.files import (
    authors_file,
    authors_records,
    nemo_files,
    slime_rollout,
    slime_train,
    write_lines,
)
from tests.importers.test_responses import World, openai_line, sglang_line, vllm_files
from tests.importers.test_slime import samples
from tests.importers.test_table import frame, save
from tests.importers.test_texts import prime_line, swift_line, trl_files, verl_files
from tests.paths import ROOT
from tests.processes import run_command

pytest.importorskip("transformers")

TEXT = (ROOT / "docs" / "import.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def _responses(folder: Path) -> None:
    world = World()
    vllm_files(folder, world)
    lines: list[list[dict[str, object]]] = [[], [], [], []]
    for number, (prompt, _) in enumerate(world.texts):
        for who in (0, 1):
            start = {} if who else {"num_prompt_tokens": len(prompt)}
            lines[who].append({**sglang_line(world, number, who, 0), **start})
            lines[2 + who].append(
                {**openai_line(world, number, who, echo=True, chat=False, k=0), **start}
            )
    names = ("sglang-student", "sglang-teacher", "openai-student", "openai-teacher")
    for name, part in zip(names, lines, strict=True):
        write_lines(folder / f"{name}.jsonl", part)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files that the page names."""
    from tests.trl_models import make_tokenizer

    made = tmp_path_factory.mktemp("docs")
    make_tokenizer().save_pretrained(made / "student")
    table = frame(steps=(0,)).rename(columns={"pos": "position"})
    save(table, made / "losses.csv")
    authors_file(made / "rock_token_occurrences_onpolicy_n100.pt", authors_records(400))
    torch.save({"token_ids": torch.arange(9), "sequence_indices": [0] * 9,
                "loss_before": torch.ones(9), "loss_after": torch.ones(9)},
               made / "phase2_losses.pt")  # fmt: skip
    for step in (0, 1):
        slime_rollout(made / f"dumps/rollout_data/{step}.pt", step, samples(step))
        slime_train(made / f"dumps/train_data/{step}_0.pt", step, samples(step), 0.1)
    nemo_files(made / "exp/logs", 1)
    (made / "exp/inputs").mkdir()
    torch.save({"step": 1, "input_ids": torch.ones(2, 4, dtype=torch.int64),
                "token_mask": torch.tensor([[0, 0, 1, 1]] * 2),
                "input_length": torch.tensor([4, 4])},
               made / "exp/inputs/opd_topk_offline_inputs_step1.pt")  # fmt: skip
    _responses(made)
    write_lines(made / "outputs/token_exports/step_2/rank_0.jsonl", [prime_line()])
    verl_files(made / "rollouts")
    trl_files(made / "out/completions")
    write_lines(made / "out/completions.jsonl", [swift_line(1)])
    return made


def test_every_command(folder: Path) -> None:
    shown = set()
    for block in _blocks("sh"):
        for line in block.splitlines():
            words = shlex.split(line)[1:]
            code, printed, error = run_command(*words, cwd=folder)
            assert code == 0, (line, error)
            assert printed
            shown |= {words[1]} if words[0] == "import" else set()
    assert shown == set(kinds())


def test_the_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = frame(steps=(0,)).rename(
        columns={"pos": "position", "seq": "sequence_id", "tok": "token_id"}
    )
    save(table, tmp_path / "losses.csv")
    monkeypatch.chdir(tmp_path)
    (block,) = _blocks("python")
    exec(compile(block, "import.md", "exec"), {})
    assert json.loads((tmp_path / "runs/mine/run.json").read_text())["extra"]["import"]["files"]


def test_every_kind_has_a_section() -> None:
    assert {name for name in kinds() if f"\n## {name}\n" not in TEXT} == set()
