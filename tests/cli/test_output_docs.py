"""docs/output.md names every key of the JSON that it is about, and no other."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import rocktok
from rocktok.analyses.compare.rankings import Ranking, compare_rankings
from rocktok.analyses.detect.instead import InsteadRow
from rocktok.report.page.files import render_report
from rocktok.stats import group_names
from tests.analyses.pillars.made import world
from tests.paths import ROOT

SAMPLE = ROOT / "sample_data" / "opd"

#: Objects whose keys are names of the data, and what stands for these.
NAMED = {
    "log.shards": "<table>", "log.versions": "<package>", "params": "<option>", "kinds": "<kind>",
    "token_texts": "<id>", "members.pairs": "<group>", "members.without_control": "<group>",
}  # fmt: skip
#: Of one command: each option of `detect` is named; report.json holds parts of other outputs.
NAMED_BY = {
    "check": {**NAMED, "findings[].details": "<number>"},
    "pillars": {
        **NAMED, "sources[].models": "<role>", "sources[].decoding": "<setting>",
    },
    "detect": {name: word for name, word in NAMED.items() if name != "params"},
    "weights": {**NAMED, "provenance": "<part>"},
    "report": {
        **NAMED, "log.passes": "<analysis>", "params.detect": "<option>",
        "params.clusters": "<cluster>", "facts": "<fact>", "thresholds": "<key>",
        "totals": "<key>", "permuted": "<key>", "figures": "<figure>", "contexts": "<id>",
        "curves": "<id>", "tests": "<analysis>", "adjusted": "<analysis>",
        "analyses": "<analysis>",
    },
}  # fmt: skip
#: Whose keys are those of another output, or what a figure draws.
ELSEWHERE = {
    "totals.<key>", "figures.<figure>", "tests.<analysis>", "adjusted.<analysis>",
    "analyses.<analysis>", "provenance.<part>",
}  # fmt: skip
GROUPS = {f"members.{name}" for name in group_names.NAMES}

#: Keys that a result has only where it has no numbers, or of a log with
#: alternatives (tests/analyses/detect/test_instead.py).
RARE = {"groups[].skipped", "tests[].skipped", "geometry.comparisons[].skipped",
        "missing[].what", "missing[].why", "missing[].remedy",
        *(f"tokens[].instead[].{name}" for name in InsteadRow.__annotations__)}  # fmt: skip


def _compared(log: rocktok.Log) -> Any:
    found = rocktok.detect(log, top_k=20).to_dict()
    lists = [Ranking.of(name, found) for name in "ab"]
    return compare_rankings(lists, {"top_k": 20, "at": [10]})


def _pillars() -> Any:
    """With a row of each kind."""
    made = world(1)
    made.about.update(models={"student": "s"}, decoding={"temperature": 1.0})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detect.json"
        path.write_text(json.dumps({"tokens": [{"token_id": v, "x": v % 4} for v in range(6)]}))
        return rocktok.pillars(made.outcomes(), made.outcomes(), predictors=[path])


class _Report:
    """A report, whose JSON is a file."""

    def __init__(self, log: rocktok.Log) -> None:
        clusters = {"names": [" ?Vera"]}
        found = rocktok.report(log, replicates=100, sequences=1, clusters=clusters)
        self.content = render_report(found)["report.json"]

    def to_json(self) -> str:
        return self.content.decode()


def _weights(log: rocktok.Log) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "occurrences.parquet"
        rocktok.occurrences(log, path)
        rocks = rocktok.detect(log, replication=False)
        return rocktok.weights(rocks, occurrences=path, radius=1)


RESULTS: dict[str, Callable[[rocktok.Log], Any]] = {
    "check": lambda log: rocktok.check(log, replicates=100),
    "detect": lambda log: rocktok.detect(log, lifts=True),
    "attribute": lambda log: rocktok.attribute(log, replicates=100),
    "report": _Report,
    "stability": lambda log: rocktok.stability(log, repeats=2, replicates=100, k=(5, 20)),
    "summary": rocktok.summary,
    "compare": _compared,
    "controls": rocktok.controls,
    "stagnation": lambda log: rocktok.stagnation(log, replicates=100),
    "lenses": lambda log: rocktok.lenses(log, replicates=100),
    "pillars": lambda _: _pillars(),
    "occurrences": rocktok.occurrences,
    "weights": _weights,
}


def keys(value: Any, named: Mapping[str, str], at: str = "") -> Iterator[str]:
    """Every key below, names of the data replaced."""
    if at in ELSEWHERE and at.split(".")[0] in named:
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            path = f"{at}.{name}" if at else name
            if at in named and path not in named:
                path = f"{at}.{named[at]}"
            path = "members.<group>" if path in GROUPS else path
            yield path
            yield from keys(inner, named, path)
    elif isinstance(value, list):
        for inner in value:
            # compare's list of logs is described as one.
            yield from keys(inner, named, at if at == "log" else f"{at}[]")


def documented(section: str) -> set[str]:
    text = (ROOT / "docs" / "output.md").read_text()
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    cells = [line.split("|")[1:4] for line in body.splitlines() if line.startswith("| `")]
    assert all(cell.strip() for row in cells for cell in row)
    found = [key for row in cells for key in re.findall(r"`([^`]+)`", row[0])]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=pytest.mark.long if c == "report" else []) for c in RESULTS]
)
def test_every_key_is_named(command: str) -> None:
    content = json.loads(RESULTS[command](rocktok.open(SAMPLE)).to_json())
    written = set(keys(content, NAMED_BY.get(command, NAMED)))
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
