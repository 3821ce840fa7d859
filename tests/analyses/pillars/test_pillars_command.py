"""`rocktok pillars`: formats, and bad input as one line with exit code 1 and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rocktok
from tests.analyses.pillars.made import Made, knockouts
from tests.processes import run_command

ANSWERS = {-1: [1, 1, 1, 0], 4: [1, 0, 1, 0], 7: [1, 1, 1, 1]}


def folder(path: Path) -> Path:
    return knockouts(path / "k", {"math500": ANSWERS, "ifeval": ANSWERS})


def edited(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Path]:
    """A folder of knockouts in which one file is another."""

    def make(path: Path) -> Path:
        file = folder(path) / name
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return path / "k"

    return make


def bare(path: Path) -> Path:
    (path / "k").mkdir()
    return path / "k"


def without_tokens(path: Path) -> Path:
    for file in folder(path).glob("tokens/*"):
        file.unlink()
    return path / "k"


def no_json(path: Path) -> Path:
    (folder(path) / "tokens" / "token_7.json").write_text("{")
    return path / "k"


def one_problem(path: Path) -> Path:
    return Made().add("baseline", [[1]]).add("ban:4", [[0]]).save(path / "k")


WANTED = "give the folder that holds baseline.json and tokens/token_<id>.json"

BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no baseline.json": (bare, f"{{k}}: has no baseline.json; {WANTED}"),
    "no tokens": (without_tokens, f"{{k}}: has no tokens/token_<id>.json; {WANTED}"),
    "no answers": (
        edited("baseline.json", lambda c: [c.pop(name) for name in ("math500", "ifeval")]),
        f"{{k}}/baseline.json: has no benchmark with per_correct; {WANTED}",
    ),
    "another length": (
        edited("tokens/token_4.json", lambda c: c["ifeval"]["per_correct"].pop()),
        "{k}/tokens/token_4.json: ifeval.per_correct has 3 problems, the baseline 4; arms need the "
        "same problems",
    ),
    "no truth value": (
        edited("tokens/token_7.json", lambda c: c["math500"].update(per_correct=[1, 0, 0.5, 1])),
        "{k}/tokens/token_7.json: math500.per_correct is 0.5 for problem 2; it must be true or "
        "false",
    ),
    "a benchmark short": (
        edited("tokens/token_4.json", lambda c: c.pop("ifeval")),
        f"{{k}}/tokens/token_4.json: has no ifeval.per_correct; {WANTED}",
    ),
    "another id": (
        edited("tokens/token_4.json", lambda c: c.update(token_id=5)),
        "{k}/tokens/token_4.json: its token_id is 5; the name says otherwise",
    ),
    "no JSON": (
        no_json,
        "{k}/tokens/token_7.json: is not JSON (Expecting property name enclosed in double quotes: "
        f"line 1 column 2 (char 1)); {WANTED}",
    ),
    "nothing": (
        lambda path: path / "k",
        "{k}: is not there; give what `rocktok intervene -o FILE.parquet` writes",
    ),
    "one problem": (
        one_problem,
        "{k}: has 1 problem; effects are compared over problems, give several",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str, tmp_path: Path) -> None:
    make, words = BAD[name]
    given = make(tmp_path)
    output = tmp_path / "out.json"
    done = run_command("pillars", str(given), "-o", str(output))
    assert done == (1, "", f"rocktok: {words.replace('{k}', str(given))}\n")
    assert not output.exists()


def test_bad_predictors_are_one_line(tmp_path: Path) -> None:
    given, file = str(folder(tmp_path)), tmp_path / "p.json"
    wanted = (
        "give what `rocktok detect` or `rocktok attribute` writes with --format json or csv: rows "
        "with token_id"
    )
    for text, why in (
        ("{}", "has no rows by token"), ('{"tokens": [{"x": 1}]}', "has a row without token_id"),
        ('{"tokens": [{"token_id": 4, "token": "a"}]}', "has no numbers by token"),
    ):  # fmt: skip
        file.write_text(text)
        done = run_command("pillars", given, "--predictors", str(file))
        assert done == (1, "", f"rocktok: {file}: {why}; {wanted}\n")


def test_options_out_of_range_and_old_names(tmp_path: Path) -> None:
    given = str(folder(tmp_path))
    done = run_command("pillars", given, "--epsilon", "2")
    assert done == (2, "", "rocktok: --margin is 2.0; it must be above 0 and below 1\n")
    done = run_command("pillars", given, "--alpha", "0.5")
    assert done == (2, "", "rocktok: --level is 0.5; it must be above 0 and below 0.5\n")


def test_every_format_and_the_function_agree(tmp_path: Path) -> None:
    given = folder(tmp_path)
    result = rocktok.pillars(given)
    code, printed, error = run_command("pillars", str(given), "--format", "json")
    assert (code, printed) == (0, result.to_json())
    assert error.splitlines() == [f"rocktok: note: {note}" for note in result.notes]
    code, printed, _ = run_command("pillars", str(given), "-q")
    assert code == 0
    assert printed.startswith(
        "0 of 2 banned rocks change the accuracy on math500 (2 undecided); 0 of 2 banned rocks "
        "change the accuracy on ifeval (2 undecided); "
    )
    assert "' t4'" in printed
    for suffix in ("csv", "parquet"):
        path = tmp_path / f"a.{suffix}"
        assert run_command("pillars", str(given), "-q", "-o", str(path)) == (0, "", "")
        assert path.stat().st_size
    done = run_command("pillars", str(given), "-o", str(tmp_path / "a.csv"))
    assert done == (
        2,
        "",
        f"rocktok: {tmp_path}/a.csv: exists already; give --force to replace it\n",
    )
