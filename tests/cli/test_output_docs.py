"""docs/output.md names every key of the JSON that it is about, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.analyses.compare.rankings import Ranking, compare_rankings
from rocktok.stats import group_names
from tests.paths import ROOT

SAMPLE = ROOT / "sample_data" / "opd"

#: Objects whose keys are names of the data, and what stands for these.
NAMED = {
    "log.shards": "<table>", "log.versions": "<package>", "params": "<option>", "kinds": "<kind>",
    "token_texts": "<id>", "members.pairs": "<group>", "members.without_control": "<group>",
}  # fmt: skip
GROUPS = {f"members.{name}" for name in group_names.NAMES}

#: Beside the keys that a result has only where it has no numbers.
RARE = {"groups[].skipped", "tests[].skipped"}


def _compared(log: rocktok.Log) -> Any:
    found = rocktok.detect(log, top_k=20).to_dict()
    return compare_rankings([Ranking.of(name, found) for name in "ab"], {"top_k": 20})


RESULTS: dict[str, Callable[[rocktok.Log], Any]] = {
    "stability": lambda log: rocktok.stability(log, repeats=2, replicates=100, k=(5, 20)),
    "compare": _compared,
    "controls": rocktok.controls,
    "stagnation": lambda log: rocktok.stagnation(log, replicates=100),
}


def keys(value: Any, at: str = "") -> Iterator[str]:
    """Every key below, names of the data replaced."""
    if isinstance(value, dict):
        for name, inner in value.items():
            path = f"{at}.{NAMED.get(at, name)}" if at else name
            path = "members.<group>" if path in GROUPS else path
            yield path
            yield from keys(inner, path)
    elif isinstance(value, list):
        for inner in value:
            # compare's list of logs is described as one.
            yield from keys(inner, at if at == "log" else f"{at}[]")


def documented(section: str) -> set[str]:
    text = (ROOT / "docs" / "output.md").read_text()
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    cells = [line.split("|")[1:4] for line in body.splitlines() if line.startswith("| `")]
    assert all(cell.strip() for row in cells for cell in row)
    found = [key for row in cells for key in re.findall(r"`([^`]+)`", row[0])]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("command", RESULTS)
def test_every_key_is_named(command: str) -> None:
    written = set(keys(json.loads(RESULTS[command](rocktok.open(SAMPLE)).to_json())))
    own, common = documented(command), documented("All commands")
    assert not own & common
    assert sorted(written - own - common) == []
    assert sorted(own - written - RARE) == []


def test_csv_is_read_back_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rocktok.analyses.detect.table import encode

    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "output.md").read_text(),
                         re.M | re.S)  # fmt: skip
    result = rocktok.detect(rocktok.open(SAMPLE), context="off", all_types=True)
    (tmp_path / "rocks.csv").write_bytes(encode(result, "csv"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "output.md", "exec"), names)
    assert names["table"]["token"].tolist() == [row["token"] for row in result.tokens]
    assert any("\n" in token for token in names["table"]["token"])
