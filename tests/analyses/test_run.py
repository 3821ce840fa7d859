"""The frame of every analysis: a log or a path, explicit options, names that are wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

import rocktok
from rocktok.analyses.attribute.result import AttributeParams
from rocktok.analyses.controls.result import ControlsParams
from rocktok.analyses.lenses.result import LensesParams
from rocktok.analyses.run import Run, options_of, public
from rocktok.analyses.stability.result import StabilityParams
from rocktok.analyses.stagnation.result import StagnationParams
from rocktok.engine.passes import Engine
from rocktok.errors import LogError
from rocktok.stats.sums import SequenceCounts
from tests.logs import write_log

PARAMS: dict[str, Any] = {
    "attribute": AttributeParams,
    "controls": ControlsParams,
    "lenses": LensesParams,
    "stability": StabilityParams,
    "stagnation": StagnationParams,
}


@pytest.mark.parametrize("name", PARAMS)
def test_defaults_are_said_once(name: str) -> None:
    """A default stands in the signature, in the options' class and on the command line: alike."""
    function = getattr(rocktok, name)
    defaults = {n: p.default for n, p in inspect.signature(function).parameters.items()}
    for field in fields(PARAMS[name]):
        assert defaults[field.name] == field.default, field.name
    module = import_module(f"rocktok.cli.{name}")
    command: click.Command = getattr(module, f"{name}_command")
    on_the_line = command.make_context(name, ["LOG"]).params
    for option in set(on_the_line) & set(defaults) - {"log", "rocks"}:
        assert (on_the_line[option] or None) == (defaults[option] or None), option


@pytest.mark.parametrize("name", PARAMS)
def test_signatures_are_explicit(name: str) -> None:
    parameters = inspect.signature(getattr(rocktok, name)).parameters.values()
    assert not [p for p in parameters if p.kind is p.VAR_KEYWORD]
    assert not [p for p in parameters if "Any" in str(p.annotation)]


def test_a_log_or_a_path(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log")
    one, *others = (
        rocktok.stagnation(log, replicates=100) for log in (rocktok.open(path), path, str(path))
    )
    assert one.log["path"] == str(path)
    assert all(other.to_json() == one.to_json() for other in others)
    with pytest.raises(LogError, match="no such directory"):
        rocktok.stagnation(tmp_path / "none")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("topk", "stagnation() has no parameter 'topk'; did you mean 'top_k'?"),
        ("replicate", "stagnation() has no parameter 'replicate'; did you mean 'replicates'?"),
        ("xyzzy", "stagnation() has no parameter 'xyzzy'; it takes log, rocks, pairs,"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(wrong: str, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        rocktok.stagnation("nowhere", **{wrong: 1})
    assert str(caught.value).startswith(message)


def test_public_keeps_the_signature_and_other_type_errors() -> None:
    @public
    def example(log: str, *, size: int = 1) -> int:
        """Doc."""
        return size

    assert str(inspect.signature(example)) == "(log: 'str', *, size: 'int' = 1) -> 'int'"
    assert example.__doc__ == "Doc." and example("x", size=2) == 2
    call: Callable[..., int] = example
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        call()


def test_options_by_name() -> None:
    names = {"top_k": 3, "seed": 4, "log": "not an option"}
    params = options_of(StagnationParams, names)
    assert (params.top_k, params.seed, params.top, params.most) == (3, 4, None, 100)


def test_the_frame_counts_passes_and_reads_prompts_once(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log")
    engine = Engine(1)
    first = Run.begin(path, engine, "auto", 0)
    assert (first.table, first.view.steps, first.passes) == ("fixed", (0, 10), 0)
    engine.run(first.source(10), SequenceCounts())
    second = Run.begin(first.log, engine, "fixed", 0)
    engine.run(second.source(10, 0), SequenceCounts())
    assert (first.passes, second.passes) == (2, 1)
    assert first.prompts is first.prompts
    with pytest.raises(LogError, match="has no rollout/ table; it has fixed, sequences"):
        Run.begin(path, engine, "rollout", 0)
