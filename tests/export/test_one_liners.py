"""docs/export.md is run: its commands, then each block of Python, on the sample."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from tests.paths import ROOT
from tests.processes import run_command

PAGE = (ROOT / "docs" / "export.md").read_text()
BLOCKS = dict(re.findall(r"\*\*(.+?)\*\*\n\n```python\n(.*?)```", PAGE, re.DOTALL))
NEEDS = {"Hugging Face datasets": "datasets", "DuckDB": "duckdb", "Polars": "polars",
         "pandas": "pandas"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of the page were run."""
    path = tmp_path_factory.mktemp("page")
    (path / "sample_data").symlink_to(ROOT / "sample_data")
    lines = re.findall(r"^rocktok .*", PAGE, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        code, printed, said = run_command(*shlex.split(line, comments=True)[1:], cwd=path)
        assert (code, bool(printed), said) == (0, True, "")
    return path


def largest() -> list[tuple[str, float]]:
    """Types with the largest sum of losses at the last step, by the log itself."""
    log = rocktok.open(ROOT / "sample_data" / "opd")
    sums = np.zeros(log.rules.vocab_size or 0)
    for part in log.scan("fixed", ["token_id", "loss"], [500]):
        np.add.at(sums, part.columns["token_id"], part.columns["loss"].astype(np.float64))
    return [(log.vocab.text(int(v)), float(sums[v])) for v in np.argsort(-sums)[:10]]


def test_every_tool_has_its_block() -> None:
    assert list(BLOCKS) == list(NEEDS)


@pytest.mark.parametrize("tool", NEEDS)
def test_one_liner(tool: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(NEEDS[tool])
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    if tool == "Hugging Face datasets":
        import datasets

        datasets.disable_progress_bars()
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    exec(compile(BLOCKS[tool], "export.md", "exec"), names)
    if tool == "Hugging Face datasets":
        assert names["fixed"].num_rows == 112_110
        return
    wanted = largest()
    if tool == "pandas":
        found = list(names["worst"].items())
        assert names["domains"] == 499
    elif tool == "DuckDB":
        found = names["worst"].fetchall()
        assert 1 < len(names["per_prompt"].fetchall()) <= 499
    else:
        found = list(names["worst"].iter_rows())
    # In a CSV file a token's text is a literal.
    texts = [text for text, _ in wanted]
    assert [text for text, _ in found] == (
        texts if tool == "Polars" else [repr(text) for text in texts]
    )
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in wanted], rel=1e-5)
