"""`--fail-if`: the path, the comparison and the exit code, by hand and in every command with it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rocktok.cli
from rocktok.analyses import analyses
from rocktok.cli.limit_keys import refuse_unknown_keys
from rocktok.cli.limits import Limit, Part, parse_limits
from rocktok.errors import LimitError, LogError, UsageError
from tests.analyses.pillars.made import world
from tests.logs import write_log
from tests.paths import SAMPLE
from tests.processes import run_command

SAID: dict[str, Any] = {
    "schema": "rocktok.made/1",
    "totals": {"loss": 0.25, "tests": 3, "none": None, "exact": True},
    "empty": (),
    "curve": [0.5, None, 0.75],
    "groups": [
        {"group": "rocks", "step": 8, "share": 0.5, "test": {"p": 0.01}, "token": " a, \"b\"]"},
        {"group": "others", "step": 8, "share": 0.125, "test": {"p": None}, "token": " the"},
        {"group": "rocks", "step": 500, "share": 0.375, "test": None, "token": "a=b"},
    ],
    "adjusted": None,
    "unknown": [{"share": None}, {"share": None}],
}  # fmt: skip


def outcome(text: str, said: Mapping[str, object] = SAID) -> str:
    """What is said of a limit: "" if it holds, else the kind of error and its message."""
    (limit,) = parse_limits([text])
    assert isinstance(limit, Limit)
    try:
        limit.check(said)
    except (LimitError, LogError, UsageError) as error:
        return f"{type(error).__name__}: {str(error).removeprefix(f'--fail-if {text!r}: ')}"
    return ""


@pytest.mark.parametrize(
    ("limit", "outcome_"),
    [
        ("totals.loss > 0.25", ""),
        ("totals.loss >= 0.25", "LimitError: totals.loss is 0.25"),
        ("totals.loss<1e-3", ""),
        ("totals.tests == 3", "LimitError: totals.tests is 3"),
        ("totals.tests != 3", ""),
        ("totals.tests > -inf", "LimitError: totals.tests is 3"),
        # Of a list every row counts.
        ("groups.share > 0.4", "LimitError: groups[0].share is 0.5"),
        ("groups.share < 0.2", "LimitError: groups[1].share is 0.125"),
        ("groups.share > 0.5", ""),
        ("groups.count < 3", ""),
        ("groups.count < 4", "LimitError: groups.count is 3"),
        ("empty.count == 0", "LimitError: empty.count is 0"),
        ("empty.share > 0", ""),
        ("curve > 0.6", "LimitError: curve[2] is 0.75"),
        ("curve[-1] > 0.6", "LimitError: curve[2] is 0.75"),
        # One row, by place or by what it is.
        ("groups[1].share > 0.2", ""),
        ("groups[ -1 ].share > 0.2", "LimitError: groups[2].share is 0.375"),
        ("groups[group=rocks, step=500].share > 0.4", ""),
        ("groups[step=500].share > 0.3", "LimitError: groups[2].share is 0.375"),
        ("groups[step=8.0].share > 0.4", "LimitError: groups[0].share is 0.5"),
        ("groups[group=others].test.p < 1", "LogError: groups[1].test.p is unknown for this log; "
         "the output names what the log lacks"),
        # Brackets and commas of a token stand in quotes; an equals sign need not.
        ("groups[token=a=b].share > 0", "LimitError: groups[2].share is 0.375"),
        ("groups[token=\" the\"].share > 0", "LimitError: groups[1].share is 0.125"),
        # What is unknown in some rows is unknown only where it is in all.
        ("groups.test.p < 0.05", "LimitError: groups[0].test.p is 0.01"),
        ("groups.test.p > 0.05", ""),
        ("unknown.share > 0", "LogError: unknown[0].share is unknown for this log; the output "
         "names what the log lacks"),
        ("adjusted.p < 0.05", "LogError: adjusted is unknown for this log; the output names what "
         "the log lacks"),
        ("groups[step=7].share > 0", "LogError: no row of groups has step=7; they have 8, 500"),
        ("groups[group=rock].share > 0", "LogError: no row of groups has group=rock; they have "
         "rocks, others; did you mean 'rocks'?"),
        ("empty[0].share > 0", "LogError: empty is empty for this log"),
        # Keys that do not exist, with the nearest.
        ("total.loss > 1", "UsageError: there is no 'total'; choose from schema, totals, empty, "
         "curve, groups, adjusted, unknown; did you mean 'totals'?"),
        ("totals.los > 1", "UsageError: totals has no 'los'; it has loss, tests, none, exact; did "
         "you mean 'loss'?"),
        ("groups.shares > 1", "UsageError: groups[0] has no 'shares'; it has group, step, share, "
         "test, token; did you mean 'share'?"),
        ("groups[stepp=8].share > 1", "UsageError: groups[0] has no 'stepp'; it has group, step, "
         "share, test, token; did you mean 'step'?"),
        ("groups[3].share > 1", "UsageError: groups has 3 rows, counted from 0; there is no 3"),
        ("curve[a=1] > 1", "UsageError: rows of curve have no keys; choose one by its place, such "
         "as curve[0]"),
        ("totals[0].loss > 1", "UsageError: totals is not a list; leave out the brackets"),
        ("totals.loss.low > 1", "UsageError: totals.loss has no 'low'; it is a value by itself"),
        # Values that are no numbers.
        ("totals > 1", "UsageError: totals is not a number; it has loss, tests, none, exact"),
        ("totals.exact > 0", "UsageError: totals.exact is not a number"),
        ("schema > 0", "UsageError: schema is not a number"),
    ],
)  # fmt: skip
def test_what_a_limit_says(limit: str, outcome_: str) -> None:
    assert outcome(limit) == outcome_


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be NAME.KEY > NUMBER"),
        ("totals.loss", "must be NAME.KEY > NUMBER"),
        ("totals.loss > ", "must be NAME.KEY > NUMBER"),
        ("totals..loss > 1", "must be NAME.KEY > NUMBER"),
        ("totals.loss => 1", "must be NAME.KEY > NUMBER"),
        ("1 > totals.loss", "must be NAME.KEY > NUMBER"),
        ("groups[0]share > 1", "must be NAME.KEY > NUMBER"),
        ("groups[0 > 1", "must be NAME.KEY > NUMBER"),
        ("a > 1 and b > 2", "must be NAME.KEY > NUMBER"),
        ("__import__('os').x > 1", "must be NAME.KEY > NUMBER"),
        ("totals.loss > 1,5", "'1,5' is not a number; write NAME.KEY > NUMBER"),
        ("totals.loss > nan", "'nan' is not a number; write NAME.KEY > NUMBER"),
        ("totals.loss > totals.loss", "'totals.loss' is not a number; write NAME.KEY > NUMBER"),
        ("groups[].a > 1", "[] chooses no rows; write [NUMBER] or [KEY=VALUE]"),
        ("groups[rocks].a > 1", "[rocks] chooses no rows; write [NUMBER] or [KEY=VALUE]"),
        ("groups[a=1 b].a[=].c > 1", "[=] chooses no rows; write [NUMBER] or [KEY=VALUE]"),
    ],
)  # fmt: skip
def test_what_is_no_limit(text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_limits([text])
    assert str(raised.value) == f"--fail-if {text!r}: {message}"


def test_quotes_hold_commas_and_brackets() -> None:
    limit = Limit.parse('groups[token=" a, ]", step = 8 ].share>1')
    assert limit is not None
    assert limit.path == (
        Part("groups", conditions=(("token", " a, ]"), ("step", "8"))),
        Part("share"),
    )


_VALUES = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53)
_TRUE = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b, "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
}  # fmt: skip


@given(
    st.lists(st.none() | _VALUES, max_size=5),
    st.sampled_from(sorted(_TRUE)),
    st.floats(allow_nan=False),
)
def test_any_row_is_enough(values: list[float | None], sign: str, number: float) -> None:
    """Twin: the comparison of each value that is known, as Python does it."""
    said = outcome(f"rows.value {sign} {number!r}", {"rows": [{"value": v} for v in values]})
    known = [value for value in values if value is not None]
    if values and not known:
        assert said.startswith("LogError")
    else:
        exceeded = any(_TRUE[sign](value, number) for value in known)
        assert said.startswith("LimitError") if exceeded else not said


@given(st.text(max_size=30))
def test_any_text_is_a_limit_or_a_usage_error(text: str) -> None:
    try:
        (limit,) = parse_limits([text])
    except UsageError:
        return
    assert isinstance(limit, Limit) and not math.isnan(limit.number)


#: Command → a limit that its result exceeds, and one that it does not.
LIMITS = {
    "detect": ("totals.positions > 1", "rocks.count < 0"),
    "attribute": ("groups.types >= 0", "groups.types < 0"),
    "stagnation": ("corpus.loss_pre > 0", "corpus.loss_pre < 0"),
    "stability": ("log.prompts > 0", "cutoffs.coverage > 1"),
    "controls": ("log.rocks.count >= 0", "log.rocks.count < 0"),
    "compare": ("pairs.shared_count >= 0", "pairs.shared_count < 0"),
    "lenses": ("lenses.count >= 0", "lenses.count < 0"),
    "pillars": ("arms.count > 0", "arms.count < 0"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Arguments of each command."""
    folder = tmp_path_factory.mktemp("limits")
    log = write_log(folder / "log")
    outcomes = world(0).save(folder / "outcomes.parquet")
    return {name: [log] for name in LIMITS} | {
        "compare": [log, log],
        "pillars": [outcomes],
        # Without rocks these have no result.
        "attribute": [SAMPLE],
        "controls": [SAMPLE],
    }


def test_every_command_with_the_option_is_tested() -> None:
    context = click.Context(rocktok.cli.cli)
    commands = {name: rocktok.cli.cli.get_command(context, name) for name in analyses()}
    with_it = {
        name
        for name, command in commands.items()
        if command is not None and any("--fail-if" in option.opts for option in command.params)
    }
    assert with_it == {"check", *LIMITS}


@pytest.mark.parametrize("name", LIMITS)
def test_exit_codes(name: str, inputs: dict[str, list[Path]]) -> None:
    exceeded, held = LIMITS[name]
    arguments = (name, *inputs[name], "-q", "--format", "json")
    plain = run_command(*arguments)
    assert plain[0] == 0
    # The result is the same, whatever a limit says of it; every limit is looked at.
    assert run_command(*arguments, "--fail-if", held) == plain
    code, out, error = run_command(*arguments, "--fail-if", held, "--fail-if", exceeded)
    assert (code, out) == (3, plain[1])
    assert error.startswith(f"rocktok: --fail-if '{exceeded}': ")
    assert error.count("\n") == 1
    json.loads(out)


def paths(value: object, path: str = "") -> Iterator[str]:
    """A path to every key of some JSON, in the words of `--fail-if`."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from paths(below, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(row, dict) for row in value):
        yield f"{path}.count"
        for row in value[:3]:
            yield from paths(row, path)
            yield from paths(row, f"{path}[{next(iter(row))}=x]")
    else:
        yield path


@pytest.mark.parametrize("name", LIMITS)
def test_no_key_of_a_result_is_refused_beforehand(name: str, inputs: dict[str, list[Path]]) -> None:
    code, out, _ = run_command(name, *inputs[name], "-q", "--format", "json")
    assert code == 0
    command = rocktok.cli.cli.get_command(click.Context(rocktok.cli.cli), name)
    assert command is not None
    named = sorted(set(paths(json.loads(out))))
    # Some tables have token ids as keys, which no path can name.
    limits = [limit for path in named if (limit := Limit.parse(f"{path} > 1")) is not None]
    assert len(limits) > 20
    with click.Context(command):
        refuse_unknown_keys(limits)


@pytest.mark.parametrize("name", ["check", *LIMITS])
def test_a_key_that_no_result_has_is_refused_before_the_log_is_read(
    name: str, tmp_path: Path
) -> None:
    arguments = [tmp_path / "no log"] * (2 if name == "compare" else 1)
    code, out, error = run_command(name, *arguments, "--fail-if", "parms.seed > 1")
    assert (code, out) == (2, "")
    assert error.startswith("rocktok: --fail-if 'parms.seed > 1': there is no 'parms'; choose from")
    assert error.count("\n") == 1
    if name != "check":
        assert error.endswith("; did you mean 'params'?\n")


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("totals.los > 1", "totals has no 'los'; it has "),
        ("rocks.share > 1", "rocks has no 'share'; it has count, loss_share"),
        ("rocks.count.low > 1", "rocks.count has no 'low'; it is a value by itself"),
        ("tokens.losses > 1", "rows of tokens have no 'losses'; they have rank, "),
        ("tokens[-1].losses > 1", "rows of tokens have no 'losses'; they have rank, "),
        ("tokens[tokens=x].rank > 1", "rows of tokens have no 'tokens'; they have rank, "),
        ("tokens.count.most > 1", "rows of tokens have no 'count'; they have rank, "),
        ("permuted.nothing > 1", "permuted has no 'nothing'; it has "),
    ],
)
def test_what_is_said_of_a_key_beforehand(limit: str, message: str, tmp_path: Path) -> None:
    code, out, error = run_command("detect", tmp_path / "no log", "--fail-if", limit)
    assert (code, out) == (2, "")
    assert error.startswith(f"rocktok: --fail-if '{limit}': {message}")


def test_what_depends_on_the_log_is_told_of_its_result(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    code, out, error = run_command("detect", log, "-q", "--fail-if", "permuted.rocks > 1")
    assert code == 2
    assert out and "there is no 'permuted'; choose from" in error


def test_a_text_that_is_no_limit_is_refused_before_the_log_is_read(tmp_path: Path) -> None:
    for name in LIMITS:
        arguments = [tmp_path / "no log"] * (2 if name == "compare" else 1)
        code, out, error = run_command(name, *arguments, "--fail-if", "rocks are many")
        assert (code, out) == (2, "")
        assert error == "rocktok: --fail-if 'rocks are many': must be NAME.KEY > NUMBER\n"


def test_the_output_file_is_there_though_a_limit_is_exceeded(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log")
    output = tmp_path / "rocks.json"
    code, out, _ = run_command("detect", log, "-o", output, "--fail-if", "totals.positions > 1")
    assert (code, out) == (3, "")
    assert json.loads(output.read_text())["schema"].startswith("rocktok.detect/")


def test_rocks_are_unknown_without_persistence(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", steps=(0,))
    code, _, error = run_command("detect", log, "-q", "--fail-if", "rocks.loss_share > 0.5")
    assert code == 1
    assert error == (
        "rocktok: --fail-if 'rocks.loss_share > 0.5': rocks.loss_share is unknown for this log; "
        "the output names what the log lacks\n"
    )
