"""What `detect` leaves behind, and how it is called: nothing changes once it is made."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import rocktok
from rocktok.analyses.detect.detection import Detection
from rocktok.analyses.detect.passes import run_detect
from rocktok.analyses.detect.result import COLUMNS, LIFT_COLUMNS, DetectOptions, DetectParams
from rocktok.cli.detect import detect_command
from rocktok.cli.report import report_command
from rocktok.errors import UsageError
from rocktok.report.passes import report
from rocktok.report.result import ReportParams
from tests.logs import RUN, rows, write_by_hand, write_log

ROOT = Path(rocktok.__file__).parent
ROOMS = [*(ROOT / "analyses/detect").glob("*.py"), *(ROOT / "report").glob("*.py")]


def test_a_finished_detection_is_frozen(tmp_path: Path) -> None:
    detection = run_detect(write_log(tmp_path), DetectParams(), lifts=True)
    contexts = detection.contexts
    assert contexts is not None and contexts.null is not None
    parts = (
        (detection, "types"),
        (detection.result, "tokens"),
        (detection.types, "persistent_T"),
        (contexts, "null"),
        (contexts.null, "pool"),
        (contexts.rule.similarity, "gamma"),
    )
    for part, name in parts:
        with pytest.raises(FrozenInstanceError):
            setattr(part, name, None)
    assert detection.rocks == {row["token_id"] for row in detection.result.rocks}
    assert detection.density["sequences"] == detection.result.density["sequences"]


def test_a_detection_is_ready_when_it_lacks_its_lifts_alone(tmp_path: Path) -> None:
    log, early = write_log(tmp_path), list[Detection]()
    done = run_detect(log, DetectParams(), lifts=True, ready=early.append)
    (before,), plain = early, run_detect(log, DetectParams()).result
    assert (before.types, before.rocks) == (done.types, done.rocks)
    assert before.result.tokens == plain.tokens
    assert before.result.notes == plain.notes
    assert (before.result.permuted, before.result.params) == (None, plain.params)
    assert done.result.permuted is not None
    assert all("context_lift" in row for row in done.result.tokens)


def _set_attributes(path: Path) -> Iterator[str]:
    """`Class.method sets x.name`, of all that is no accumulator and not its own `__init__`."""
    tree = ast.parse(path.read_text())
    for scope in tree.body:
        functions = scope.body if isinstance(scope, ast.ClassDef) else [scope]
        names = {f.name for f in functions if isinstance(f, ast.FunctionDef)}
        for function in functions:
            own = isinstance(scope, ast.ClassDef) and (
                "update" in names or getattr(function, "name", "") == "__init__"
            )
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    owner = ast.unparse(node.value)
                    # A module that is made callable, or an array's flags, are none of ours.
                    ours = owner != "sys.modules[__name__]" and not owner.endswith(".flags")
                    if ours and not (own and owner.split(".")[0] == "self"):
                        yield f"{getattr(scope, 'name', '')} sets {owner}.{node.attr}"


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_is_set_on_an_object_after_its_construction(path: Path) -> None:
    assert list(_set_attributes(path)) == []


def test_what_sets_an_attribute_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("class Run:\n    def result(self):\n        self.found = 1\nrun.null = True\n")
    assert list(_set_attributes(path)) == ["Run sets self.found", " sets run.null"]


@pytest.mark.parametrize(
    "path", [p for p in ROOMS if p.parent.name == "report"], ids=lambda path: path.name
)
def test_the_report_reaches_into_no_private_name(path: Path) -> None:
    private = [
        f"{ast.unparse(node.value)}.{node.attr}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.endswith("_")
        and ast.unparse(node.value) not in ("self", "other", "cls")
    ]
    assert private == []


# -- how they are called -------------------------------------------------------------------


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)
    return {p.name: p.default for p in parameters}


def _options(*params: type[Any]) -> dict[str, Any]:
    return {f.name: f.default for kind in params for f in fields(kind)}


@pytest.mark.parametrize(
    ("function", "params"),
    [(rocktok.detect, [DetectParams]), (report, [ReportParams, DetectParams])],
)
def test_keywords_have_the_defaults_of_the_options(
    function: Callable[..., Any], params: list[type[Any]]
) -> None:
    options, defaults = _options(*params), _defaults(function)
    assert {name: defaults[name] for name in options} == options
    beside = {"log", "embeddings", "engine", "half", "only", "lifts", "clusters", "tell"}
    beside |= {"replication", "outcomes"}
    assert set(defaults) - set(options) <= beside


@pytest.mark.parametrize(
    ("command", "arguments", "params"),
    [
        (detect_command, ["LOG"], [DetectParams]),
        (report_command, ["LOG", "-o", "DIR"], [ReportParams, DetectParams]),
    ],
)
def test_commands_have_the_defaults_of_the_options(
    command: click.Command, arguments: list[str], params: list[type[Any]]
) -> None:
    options, parsed = _options(*params), command.make_context("rocktok", arguments).params
    assert set(options) - set(parsed) == (set() if command is detect_command else {"all_types"})
    assert {name: parsed[name] for name in options if name in parsed} == {
        name: value for name, value in options.items() if name in parsed
    }


def test_a_wrong_keyword_names_the_nearest(tmp_path: Path) -> None:
    for function in (rocktok.detect, report):
        with pytest.raises(TypeError, match=r"no parameter 'topk'; did you mean 'top_k'\?"):
            function(write_log(tmp_path / function.__name__), topk=5)


def test_a_path_is_taken_as_an_open_log_is(tmp_path: Path) -> None:
    path = write_log(tmp_path)
    one, other = rocktok.detect(str(path)), rocktok.detect(rocktok.open(path))
    assert one.to_json() == other.to_json()
    quick: dict[str, Any] = {"replicates": 100, "lifts": False, "sequences": 1}
    assert report(path, **quick).detect.tokens == one.tokens


def test_rows_and_options_hold_what_their_types_name(tmp_path: Path) -> None:
    log = rocktok.open(write_log(tmp_path))
    plain, lifted = (rocktok.detect(log, all_types=True, lifts=lifts) for lifts in (False, True))
    assert {tuple(row) for row in plain.tokens} == {COLUMNS}
    assert {tuple(row) for row in lifted.tokens} == {LIFT_COLUMNS}
    assert set(lifted.params) == set(DetectOptions.__annotations__)
    filled_in = {
        "quantile_post": 0.8, "window": 8, "similarity": "surprisal", "similarity_given": "auto",
        "gamma": 0.5, "all_types": True, "rule": "tested",
    }  # fmt: skip
    assert set(plain.params) == set(lifted.params) - {"lifts"}
    assert plain.params == {**_options(DetectParams), **filled_in}


# -- where thresholds cannot be had --------------------------------------------------------


def test_a_report_with_embeddings_of_a_log_of_zeros(tmp_path: Path) -> None:
    """It goes on without persistence, with the matrix that it was given."""
    for step, name in ((0, "a"), (10, "b")):
        frame = rows(step, range(20))
        frame["loss"] = np.where(np.arange(len(frame["loss"])) % 20 == 0, frame["loss"], 0.0)
        write_by_hand(tmp_path, frame, name)
    matrix = np.eye(int(RUN.get("vocab_size") or 50))
    options: dict[str, Any] = {"similarity": "embedding", "replicates": 100, "sequences": 0}
    result = report(tmp_path, embeddings=matrix, **options)
    assert result.detect.params["context"] == "off"
    assert result.detect.log["embeddings"] is not None
    assert "and so is the threshold" in result.missing[0]["why"]
    with pytest.raises(UsageError, match="give both similarity"):
        report(tmp_path, **options)
