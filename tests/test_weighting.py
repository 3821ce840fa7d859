"""The weights file: written, read, and refused where it breaks a rule."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocktok.errors import LogError, UsageError
from rocktok.weighting import (
    MISSING,
    Budget,
    Provenance,
    VocabularyOf,
    Weights,
    Window,
    WindowContexts,
)


def some(**changes: Any) -> Weights:
    weights = Weights(
        select="rocks",
        weight=0.25,
        radius=2,
        token_ids=(7, 3),
        token_texts=(" So", "\u202e"),
        contexts=WindowContexts(2, 1, 0.5, (Window(7, (MISSING, 4), (3,)),)),
        budget=Budget(0.5, 0.1),
        vocabulary=VocabularyOf(50, "abc"),
        provenance=Provenance({"path": "runs/a"}, {"pre": 0, "post": 10}, {"seed": 0}, "1"),
    )
    return replace(weights, **changes)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    some().save(path)
    assert Weights.load(path) == some()
    assert path.read_bytes().isascii()
    content = json.loads(path.read_text())
    assert list(content) == [
        "schema", "select", "weight", "radius", "normalization", "token_ids", "token_texts",
        "contexts", "budget", "vocabulary", "provenance",
    ]  # fmt: skip
    assert content["contexts"]["windows"] == [{"token_id": 7, "left": [-1, 4], "right": [3]}]
    with pytest.raises(UsageError, match="exists already; give --force"):
        some().save(path)
    some(weight=0.0).save(path, force=True)
    assert Weights.load(path).weight == 0


ids = st.integers(0, 49)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(ids, unique=True, max_size=6),
    st.floats(0, 1e6),
    st.lists(st.tuples(ids, st.lists(st.integers(-1, 49), min_size=3, max_size=3)), max_size=4),
)
def test_any_weights_come_back(tokens: list[int], weight: float, around: list[Any]) -> None:
    windows = tuple(Window(v, tuple(w[:2]), tuple(w[2:])) for v, w in around)
    one = some(
        token_ids=tuple(tokens),
        token_texts=tuple(map(chr, tokens)),
        weight=weight,
        contexts=WindowContexts(2, 1, 1.0, windows),
    )
    assert Weights.from_dict(json.loads(one.to_json())) == one


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weight": -1.0}, "weight is -1; it must be 0 or more, and finite"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"radius": -1}, "radius is -1; it must be 0 or more"),
        ({"contexts": None}, "radius is 2, but there are no contexts to match"),
        ({"select": "loudest"}, "select is 'loudest'; it must be one of rocks, "),
        ({"select": "lens:"}, "select is 'lens:'"),
        ({"token_ids": (7, 7)}, "token_ids has an id twice"),
        ({"token_ids": (7, 50)}, "token_ids has 50, outside the vocabulary of 50 ids"),
        ({"token_ids": (7,)}, "token_texts has 2 texts for 1 token ids"),
        ({"normalization": "weights"}, "normalization is 'weights'; it must be 'tokens'"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        some(**changes)


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("schema",), "rocktok.detect/3", "is not a weights file"),
        (("schema",), "rocktok.weights/2", "has schema rocktok.weights/2"),
        (("weight",), "1", "weight must be a finite number"),
        (("weight",), -0.5, "weight is -0.5; it must be 0 or more"),
        (("weight",), None, "weight must be a finite number"),
        (("radius",), 1.5, "radius must be a whole number"),
        (("radius",), True, "radius must be a whole number"),
        (("token_ids",), [1, -1], "token_ids must be a list of token ids from 0 on"),
        (("token_ids",), [1, 2**31], "token_ids must be a list"),
        (("token_texts",), [1, 2], "token_texts must be a list of texts"),
        (("contexts",), [], "contexts must be an object or null"),
        (("contexts", "min_similarity"), 0, "contexts.min_similarity must be above 0"),
        (("contexts", "windows"), {}, "contexts.windows must be a list"),
        (("contexts", "windows", 0, "left"), [1], r"windows\[0\] must be 2 token ids on the left"),
        (("contexts", "windows", 0, "token_id"), 99, "token_ids has 99, outside"),
        (("contexts", "windows", 0), 3, r"contexts.windows\[0\] must be an object"),
        (("budget",), None, "budget must be an object"),
        (("budget", "loss_share"), "all", "budget.loss_share must be a number or null"),
        (("vocabulary", "size"), 0, "vocabulary.size must be a positive number or null"),
        (("provenance", "steps", "pre"), "first", "provenance.steps must be steps by name"),
        (("provenance", "rocktok"), 1, "provenance.rocktok must be a text"),
    ],
)
def test_files_that_break_a_rule_are_refused(
    tmp_path: Path, path: tuple[Any, ...], value: Any, why: str
) -> None:
    content = copy.deepcopy(some().to_dict())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = tmp_path / "weights.json"
    file.write_text(json.dumps(content))
    with pytest.raises(LogError, match=why) as caught:
        Weights.load(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    "missing", ["weight", "token_ids", "contexts", "budget", "vocabulary", "provenance"]
)
def test_a_key_that_is_not_there(missing: str) -> None:
    content = some().to_dict()
    del content[missing]
    with pytest.raises(LogError, match=f"{missing} must be "):
        Weights.from_dict(content)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be read"):
        Weights.load(tmp_path / "none.json")
    for text, why in (("{", "is not JSON"), ("[" * 100_000, "is not JSON"), ("[]", "is not a wei")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(LogError, match=why):
            Weights.load(tmp_path / "bad.json")


def test_another_vocabulary_is_refused() -> None:
    some().check_vocabulary("model", size=50, identity="abc")
    some().check_vocabulary("model", size=8)
    with pytest.raises(LogError, match="model: its token ids are of another tokenizer"):
        some().check_vocabulary("model", identity="abd")
    with pytest.raises(LogError, match="model: token id 7 is outside the vocabulary of 7 ids"):
        some().check_vocabulary("model", size=7)


def test_a_training_process_needs_nothing_heavy_for_it() -> None:
    code = "import sys, rocktok.weighting\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "pyarrow", "pandas", "numba", "scipy"}
