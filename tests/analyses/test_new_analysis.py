"""To add an analysis takes one folder, one module of the command line, one line of the registry.

tests/toy_analysis holds the folder and the module.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import rocktok
import rocktok.cli
from rocktok import analyses
from rocktok.analyses import Analysis
from rocktok.errors import LogError
from rocktok.report.page.files import render_report
from rocktok.report.passes import report
from tests.logs import write_log
from tests.paths import ROOT

TOY = Analysis(
    "toy", "Which token types have the largest mean loss.", "rocktok.analyses.toy.passes:toy"
)

#: Options of a report that is made in a moment.
QUICK = {"lifts": False, "sequences": 0, "replicates": 100}


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(analyses, "ANALYSES", (*analyses.ANALYSES, TOY))
    toy = ROOT / "tests" / "toy_analysis"
    for package, folder in ((analyses, "analyses"), (rocktok.cli, "cli")):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(toy / folder)])
    yield
    for name in [
        n for n in sys.modules if n.startswith(("rocktok.analyses.toy", "rocktok.cli.toy"))
    ]:
        del sys.modules[name]


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(write_log(tmp_path / "log"))


def run(capsys: pytest.CaptureFixture[bytes], *arguments: str) -> bytes:
    rocktok.cli.cli.main(list(arguments), standalone_mode=False)
    return capsys.readouterr().out


def test_in_python(log: str) -> None:
    result = rocktok.toy(log, top=2)
    assert result == rocktok.toy(rocktok.open(log), top=2)
    assert "toy" in dir(rocktok)
    losses = [row["mean_loss"] for row in result.tokens]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 2
    assert repr(result).startswith(f"{result.tokens[0]['token']!r} has the largest mean loss\n\n")
    html = result._repr_html_()
    assert html.index("has the largest mean loss") < html.index("<th>mean_loss</th>")
    assert "<ul><li>&lt;b&gt; a toy</li></ul>" in html


def test_on_the_command_line(log: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert TOY.help in run(capsysbinary, "--help").decode()
    assert b"LOG" in run(capsysbinary, "toy", "--help")
    result = rocktok.toy(log)
    assert run(capsysbinary, "toy", log, "--top", "5").decode() == f"{result}\n"
    content = json.loads(run(capsysbinary, "toy", log, "--top", "5", "--format", "json"))
    assert content == json.loads(result.to_json())
    data = run(capsysbinary, "toy", log, "--top", "5", "--format", "csv").decode()
    rows = list(csv.DictReader(io.StringIO(data)))
    assert [ast.literal_eval(r["token"]) for r in rows] == [r["token"] for r in result.tokens]
    assert [float(r["mean_loss"]) for r in rows] == [r["mean_loss"] for r in result.tokens]
    table = pq.read_table(
        io.BytesIO(run(capsysbinary, "toy", log, "--top", "5", "--format", "parquet"))
    )
    assert table.to_pylist() == list(result.tokens)
    assert json.loads(table.schema.metadata[b"rocktok"])["schema"] == "rocktok.toy/1"


def test_in_the_report(log: str) -> None:
    result = report(rocktok.open(log), **QUICK)
    files = render_report(result)
    page = files["report.html"].decode()
    assert '<a href="#analysis-toy">Toy</a>' in page
    section = page[page.index('<section id="analysis-toy"') :].split("</section>")[0]
    assert f"<p>{TOY.help}</p>" in section
    toy = rocktok.toy(log)
    assert f"&#39;{toy.tokens[0]['token']}&#39; has the largest mean loss</p>" in section
    assert section.count("<tr>") == 6
    assert "<li>&lt;b&gt; a toy</li>" in section
    content = json.loads(files["report.json"])
    assert content["analyses"]["toy"] == json.loads(toy.to_json())
    assert content["log"]["passes"]["toy"] == 1


def test_what_the_log_lacks_for_it_is_on_the_page(
    log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rocktok.analyses.toy import passes

    def lacking(log: rocktok.Log) -> None:
        raise LogError(f"{log.name}: no toys; record some")

    monkeypatch.setattr(passes, "toy", lacking)
    result = report(rocktok.open(log), **QUICK)
    (other,) = (one for one in result.others if one.analysis is TOY)
    row = {"what": TOY.help.rstrip("."), "why": "no toys", "remedy": "record some"}
    assert other.missing == row
    assert row in result.missing
    assert "analysis-toy" not in render_report(result)["report.html"].decode()
