"""Parts that the hooks for other trainers share: texts, settings, signatures, columns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocktok.errors import HookError
from rocktok.hooks import Recorder
from rocktok.hooks.calls import check_call, imported, version_of
from rocktok.hooks.environment import settings
from rocktok.hooks.possible_columns import fit_columns
from rocktok.hooks.scored_texts import record_texts, text_of
from tests.hooks.other_trainers import read


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=30))
def test_a_text_is_cut_into_prompt_and_completion(tokens: list[tuple[int, bool]]) -> None:
    ids, scored = map(list, zip(*tokens, strict=True))
    text = text_of(ids, scored)
    both = [*text.prompt_token_ids, *text.completion_token_ids]
    assert both == ids[: len(both)] and not any(scored[len(both) :])
    assert not any(scored[: len(text.prompt_token_ids)])
    first = len(text.prompt_token_ids)
    assert text.scored.tolist() == scored[first : first + len(text.scored)]
    if any(scored):
        assert text.scored[0] and text.scored[-1]


def test_texts_without_a_scored_token_are_left_out(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, every=1, fixed_sequences=0, columns=(), quiet=True)
    recorder.start()
    texts = [text_of([1, 2], [0, 0]), text_of([1, 2, 3], [0, 1, 1])]
    record_texts(recorder, 0, texts, {"loss": np.ones(2)}, ends=[3])
    with pytest.raises(ValueError, match="loss has 3 rows for 2 scored tokens"):
        record_texts(recorder, 0, texts, {"loss": np.ones(3)})
    recorder.finish_step(0)
    recorder.close()
    assert read(tmp_path)["token_id"].tolist() == [2, 3]


def test_settings_of_the_environment() -> None:
    found = settings({"ROCKTOK_LOG": "log", "ROCKTOK_COLUMNS": "jsd,overlap", "OTHER": "x"})
    assert (found.log, found.every, found.resume_step) == ("log", 10, None)
    assert found.columns == ("jsd", "overlap")
    recorder = found.recorder()
    assert recorder.fixed_sequences == 0 and recorder.columns == ("jsd", "overlap")
    assert settings({"ROCKTOK_LOG": "log", "ROCKTOK_COLUMNS": "lenses"}).columns == "lenses"


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({}, "ROCKTOK_LOG is not set"),
        ({"ROCKTOK_EVERY": "0"}, "ROCKTOK_EVERY is '0'; it must be an integer of at least 1"),
        ({"ROCKTOK_EVERY": "1e3"}, "ROCKTOK_EVERY is '1e3'"),
        ({"ROCKTOK_EVERY": "٣"}, "must be an integer"),
        ({"ROCKTOK_RESUME_STEP": "-1"}, "ROCKTOK_RESUME_STEP is '-1'"),
        ({"ROCKTOK_QUIET": "yes"}, "ROCKTOK_QUIET is 'yes'; it must be 0 or 1"),
        ({"ROCKTOK_COLUMNS": "entropy"}, "no column 'entropy'"),
    ],
)
def test_wrong_settings_are_refused(given_: dict[str, str], message: str) -> None:
    log = {"ROCKTOK_LOG": "log"} if given_ else {}
    with pytest.raises(HookError, match=message):
        settings({**log, **given_})


def test_signatures() -> None:
    def call(a: Any, b: Any = None) -> None: ...

    owner = SimpleNamespace(__name__="module", call=call)
    assert check_call(owner, "call", ("a", "b"), "it 2", "it 1") is call
    assert check_call(owner, "call", ("a", "b", "c"), "it 2", "it 1", optional=("c",)) is call
    for parameters, message in [
        (("a",), "module.call of it 2 has the unknown b; use it 1 or a newer rocktok"),
        (("a", "b", "c"), "module.call of it 2 lacks c; use it 1"),
        (("b", "a"), "in another order"),
    ]:
        with pytest.raises(HookError, match=message):
            check_call(owner, "call", parameters, "it 2", "it 1")
    with pytest.raises(HookError, match=r"it 2 has no module.gone; use it 1"):
        check_call(owner, "gone", (), "it 2", "it 1")


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(HookError, match="install nothing 1"):
        imported("rocktok_there_is_no_such_module", "nothing 1")
    assert version_of("rocktok-there-is-no-such") == "rocktok-there-is-no-such (of unknown version)"


def test_a_preset_is_cut_and_names_are_not(tmp_path: Path, capsys: Any) -> None:
    recorder = Recorder(tmp_path, fixed_sequences=0)
    got = fit_columns(recorder, recorder.columns, ("student_logprob",), "it is so")
    assert got == ("student_logprob",)
    said = capsys.readouterr().err
    assert said.startswith("rocktok: not recorded, as it is so: teacher_logprob, ")
    assert fit_columns(recorder, ("jsd",), ("jsd",), "no") == ("jsd",)
    with pytest.raises(HookError, match="columns jsd cannot be had, as it is so; choose from none"):
        fit_columns(recorder, ("jsd",), (), "it is so")
