"""`--explain`: each pass of a command on stderr, and what all of them read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rocktok.log import LogWriter
from tests.logs import RUN, rows, write_log
from tests.processes import run_command

PASS = re.compile(
    r"rocktok: explain: pass (?P<number>\d+): (?P<log>.+): fixed/ steps? (?P<steps>[\d and]+), "
    r"(?P<rows>[\d,]+) rows, [\d.,]+ MB in [\d.]+ s for (?P<names>[a-z, ]+); "
    r"(columns .*token_id.*|rows kept from before)"
)


def _passes(error: str) -> list[re.Match[str]]:
    lines = [line for line in error.splitlines() if ": explain: pass " in line]
    found = [PASS.fullmatch(line) for line in lines]
    assert all(found), lines
    return [each for each in found if each is not None]


def test_one_line_for_each_pass_and_one_for_all(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    code, plain, _ = run_command("detect", log, "--format", "json", "-q", "--jobs", "2")
    explained = run_command("detect", log, "--format", "json", "-q", "--jobs", "2", "--explain")
    # The result is the same, and stdout holds nothing else.
    assert (code, *explained[:2]) == (0, 0, plain)
    passes = _passes(explained[2])
    assert len(passes) == json.loads(plain)["log"]["passes"]
    assert [int(each["number"]) for each in passes] == list(range(1, len(passes) + 1))
    assert {each["names"] for each in passes} == {"detect"}
    last = explained[2].splitlines()[-1]
    read = sum(int(each["rows"].replace(",", "")) for each in passes)
    assert f"{len(passes)} passes in " in last and f" {read:,} rows read" in last


def test_a_shared_pass_names_all_whom_it_served(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with LogWriter(path, run=RUN) as writer:
        for step in (0, 5, 10):
            writer.write(rows(step, range(40)), table="fixed")
            writer.finish_step(step, "fixed")
    code, _, error = run_command("summary", path, "--explain", "-q")
    assert code == 0
    names = {name for each in _passes(error) for name in each["names"].split(", ")}
    assert names == {"detect", "stagnation", "check"}


def test_without_a_pass_it_says_so(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log", run=RUN) as writer:
        writer.write(rows(0, range(4)), table="rollout")
        writer.finish_step(0, "rollout")
    code, _, error = run_command("info", tmp_path / "log", "-q", "--explain")
    assert code == 0
    assert re.fullmatch(r"rocktok: explain: no pass over the rows; [\d.]+ s\n", error)


@pytest.mark.parametrize("command", ["detect", "report"])
def test_an_error_stays_the_last_line(command: str, tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    shard = next(log.glob("fixed/**/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-40])
    output = ["-o", str(tmp_path / "out")] if command == "report" else []
    code, _, error = run_command(command, log, *output, "--explain")
    assert code == 1
    last = error.splitlines()[-1]
    assert last.startswith(f"rocktok: {shard}: ") and "truncated" in last
    assert "passes in" not in error
