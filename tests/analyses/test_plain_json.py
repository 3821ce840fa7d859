"""JSON of results: the bytes of `json.dumps` with an indent, the mappings of `asdict`."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rocktok
from rocktok.analyses.plain_json import as_plain, indented
from tests.paths import SAMPLE

#: Numbers and texts, as values and as keys.
_SINGLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
_VALUES = st.recursive(
    _SINGLE,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(_SINGLE, inner),
    max_leaves=40,
)


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Made:
    rows: tuple[Any, ...]
    inner: Any
    pair: Pair


@given(_VALUES, st.booleans())
def test_the_bytes_of_json(value: object, ascii_only: bool) -> None:
    wanted = json.dumps(value, indent=1, ensure_ascii=ascii_only, allow_nan=False)
    assert indented(value, ascii_only=ascii_only) == wanted


@given(_VALUES, _VALUES)
def test_the_mappings_of_asdict(value: Any, other: Any) -> None:
    made = Made((value, Made((), other, Pair(1, value))), {"a": [Pair(other, 2)]}, Pair(value, {}))
    assert as_plain(made) == asdict(made)
    assert repr(as_plain(made)) == repr(asdict(made))


def test_kinds_that_are_not_plain() -> None:
    value = {"a": np.float64(0.1), "b": OrderedDict(x=Pair(np.float64(1e300), None)), "c": [True]}
    assert indented(value) == json.dumps(value, indent=1)
    assert as_plain(value) == value and type(as_plain(value)["b"]) is OrderedDict
    assert indented([]) == "[]" and indented({}) == "{}" and indented([{}, [[]]]) == json.dumps(
        [{}, [[]]], indent=1)  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], {"a": [{"b": -np.inf}]}])
def test_numbers_that_json_does_not_have(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        indented(value)


@pytest.mark.parametrize("value", [object(), [{1, 2}], {"a": b""}, {(1, 2): [3]}, {(1, 2): 3}])
def test_values_that_json_does_not_have(value: object) -> None:
    with pytest.raises(TypeError):
        json.dumps(value, indent=1)
    with pytest.raises(TypeError):
        indented(value)


def test_a_result_is_what_it_was() -> None:
    result = rocktok.detect(SAMPLE, all_types=True)
    content = {"schema": result.SCHEMA, **asdict(result)}
    content = {name: value for name, value in content.items() if name != "permuted"}
    assert result.to_dict() == content
    assert json.loads(result.to_json()) == json.loads(json.dumps(content))
