"""What `intervene` reads: problems, checkers, rocks and controls, occurrences, options."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rocktok.errors import LogError, RocktokError, UsageError
from rocktok.replay.intervene.arms import Candidate
from rocktok.replay.intervene.candidates import load_candidates, load_occurrences
from rocktok.replay.intervene.checkers import boxed, checker, same
from rocktok.replay.intervene.options import Options
from rocktok.replay.intervene.problems import Problem, digest, load_problems
from rocktok.replay.intervene.rules import MISSING

GOOD = '{"id": 7, "prompt": "What is 3 plus 4?", "answer": 7}'


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# -- problems --------------------------------------------------------------------------------------


def test_problems_are_read_in_order(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "x"}]
    lines = [GOOD, "", json.dumps({"id": "b", "prompt": chat, "answer": "y", "more": [1]}), ""]
    path = written(tmp_path / "p.jsonl", "\n".join(lines))
    one, other = load_problems(path)
    assert (one.id, one.prompt, one.answer) == ("7", "What is 3 plus 4?", 7)
    assert (other.id, other.prompt, other.content["more"]) == ("b", chat, [1])
    assert digest([one, other]) != digest([other, one])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.jsonl: holds no problems; "),
        ("\n\n", "p.jsonl: holds no problems; "),
        (GOOD + '\n{"id": 8', "p.jsonl: line 2: is not JSON ("),
        ("[1]", "p.jsonl: line 1: is not an object; "),
        ('{"id": 1}', "p.jsonl: line 1: has no prompt and no answer; "),
        ('{"id": 1.5, "prompt": "x", "answer": 1}', "line 1: its id is neither a text nor"),
        ('{"id": 1, "prompt": [], "answer": 1}', "line 1: its prompt is neither a text nor"),
        (GOOD + "\n" + GOOD.replace("7,", '"7",', 1), "p.jsonl: two problems have id '7'; "),
    ],
)
def test_lines_that_are_no_problem(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LogError, match=re.escape(message)):
        load_problems(written(tmp_path / "p.jsonl", text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no.jsonl: cannot be read \(No such file"):
        load_problems(tmp_path / "no.jsonl")


# -- checkers --------------------------------------------------------------------------------------


def right(spec: str, text: str, answer: Any) -> bool:
    return checker(spec)(text, Problem("1", "?", answer, {"answer": answer}))


def test_answers_are_compared_as_text_or_as_numbers() -> None:
    assert same(" 12 ", 12)
    assert same("1,000.0", 1000)
    assert same("-3", "-3.00")
    assert same("a b", "a b")
    assert not same("a  b", "a b")
    assert not same("NaN", "nan")
    assert not same("12 apples", 12)
    assert not same(None, "None")


def test_built_in_checkers() -> None:
    assert right("exact", "7\n", 7)
    assert not right("exact", "It is 7", 7)
    assert boxed(r"\boxed{1} and \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert boxed(r"\boxed{1") is None
    assert right("boxed", r"so \boxed{ 12 }", 12)
    assert not right("boxed", "12", 12)
    assert right(r"regex:is (\d+)", "is 3, no: is 12.", 12)
    assert right(r"regex:\d+$", "3 12", "12")
    assert not right(r"regex:\d+", "none", "None")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("exactly", "checker is 'exactly'; give exact, boxed, regex:PATTERN, or module:function"),
        ("regex:", "checker is 'regex:'; give exact"),
        ("regex:(", "checker has a pattern that is no regular expression ("),
        ("no_such_module:f", "checker no_such_module:f cannot be imported (No module named"),
        ("json:no_such", "checker json:no_such cannot be imported ("),
        ("math:pi", "checker math:pi is not a function; give"),
    ],
)
def test_checkers_that_are_none(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        checker(spec)


def test_a_checker_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        tmp_path / "my_rules_of_intervene.py",
        "def ends(text, problem):\n    return text.endswith(problem['answer'])\n"
        "def breaks(text, problem):\n    return 1 / 0\n"
        "def scores(text, problem):\n    return 0.5\n",
    )
    monkeypatch.chdir(tmp_path)
    name = "my_rules_of_intervene"
    assert right(f"{name}:ends", "abc", "bc")
    assert not right(f"{name}:ends", "abc", "ab")
    with pytest.raises(RocktokError, match=r"^problem '1': the checker .*:breaks failed \(ZeroDiv"):
        right(f"{name}:breaks", "abc", "")
    with pytest.raises(RocktokError, match=r"^problem '1': .*:scores returned 0.5, which is no"):
        right(f"{name}:scores", "abc", "")


# -- rocks and controls ----------------------------------------------------------------------------


def row(token_id: int, is_rock: bool, frequency: int, mean_loss: float) -> dict[str, Any]:
    return {"token_id": token_id, "is_rock": is_rock, "frequency": frequency,
            "mean_loss": mean_loss}  # fmt: skip


#: 11 and 12 are like rock 5 in loss and in frequency; 13 is rare; 14 is like nothing.
ROWS = [row(5, True, 100, 2.0), row(3, True, 40, 1.0), row(11, False, 900, 2.1),
        row(12, False, 110, 0.1), row(13, False, 19, 1.0), row(14, False, 5000, 9.0)]  # fmt: skip


def detected(path: Path, rows: list[dict[str, Any]], vocab: str | None = "v") -> Path:
    content = {"schema": "rocktok.detect/3", "log": {"vocab": vocab}, "tokens": rows}
    return written(path, json.dumps(content))


def test_controls_are_matched_by_loss_and_by_frequency(tmp_path: Path) -> None:
    found = load_candidates(detected(tmp_path / "r.json", ROWS), vocab="v", size=6000)
    assert found.rocks == (5, 3)
    assert found.controls == (Candidate(11, "control", 5), Candidate(12, "frequency", 5))
    assert found.notes == ()
    assert found.provenance["log"] == {"vocab": "v"}
    # What is a rock is no control, though it is not taken.
    top = load_candidates(detected(tmp_path / "r.json", ROWS), vocab="v", top=1)
    assert (top.rocks, top.controls) == ((5,), found.controls)


def test_rocks_alone_have_no_controls_and_that_is_said(tmp_path: Path) -> None:
    found = load_candidates(detected(tmp_path / "r.json", ROWS[:2]), vocab="v")
    assert found.controls == ()
    assert found.notes == (
        "no types to match with the rocks are known: write it with `rocktok detect --all`, or give "
        "--controls of `rocktok controls`",
    )
    unknown = load_candidates(detected(tmp_path / "r.json", ROWS, vocab=None), vocab="v")
    assert [note.partition(": ")[2] for note in unknown.notes] == [
        "its vocabulary is unknown; ids are taken to be the student's"
    ]


def test_controls_of_a_file(tmp_path: Path) -> None:
    content = {
        "schema": "rocktok.controls/1", "log": {"rocks": [3, 5], "vocab": "v"},
        "kinds": {"loss": {"pairs": [[5, 20], [3, 21]]}, "frequency": {"pairs": [[3, 22]]}},
    }  # fmt: skip
    path = written(tmp_path / "c.json", json.dumps(content))
    found = load_candidates([5], path, vocab="v")
    assert found.controls == (Candidate(20, "control", 5),)
    both = load_candidates([3, 5], path, vocab="v")
    assert [one.token_id for one in both.controls] == [20, 21, 22]
    with pytest.raises(LogError, match="its vocabulary differs from that of the student"):
        load_candidates([5], path, vocab="w")
    content["kinds"] = {"loss": {"pairs": []}}
    with pytest.raises(LogError, match="contains no pairs by loss"):
        load_candidates([5], written(path, json.dumps(content)), vocab="v")


def test_rocks_that_are_refused(tmp_path: Path) -> None:
    good = detected(tmp_path / "r.json", ROWS)
    with pytest.raises(LogError, match="its vocabulary differs from that of S, so ids have"):
        load_candidates(good, vocab="w", student="S")
    with pytest.raises(LogError, match=r"^rocks: 5 is no token id; S has ids from 0 to 4"):
        load_candidates(good, vocab="v", student="S", size=5)
    with pytest.raises(LogError, match=r"^controls: 11 is no token id"):
        load_candidates(good, vocab="v", size=11)
    with pytest.raises(LogError, match="holds no rocks, so there is nothing to intervene on"):
        load_candidates(detected(tmp_path / "n.json", ROWS[2:]), vocab="v")
    with pytest.raises(LogError, match="is not a result of `rocktok detect`"):
        load_candidates(written(tmp_path / "x.json", '{"schema": "other"}'))
    with pytest.raises(LogError, match="is not a result of `rocktok detect`"):
        load_candidates(detected(tmp_path / "y.json", [{"token_id": 1}]))
    for ids, words in (([], "names no token"), ([1, 1], "names a token twice")):
        with pytest.raises(UsageError, match=words):
            load_candidates(ids)
    with pytest.raises(UsageError, match="top is 0"):
        load_candidates([1], top=0)
    with pytest.raises(LogError, match="-1 is no token id"):
        load_candidates([-1])


# -- occurrences -----------------------------------------------------------------------------------


def occurrences(path: Path, parameters: dict[str, Any], vocab: str = "v") -> Path:
    rows = [
        (5, True, [1, 2]), (5, True, [1, 2]), (5, False, [3, 4]), (8, False, [6, 7]),
        (5, True, [MISSING, 9]), (9, None, [1, 1]),
    ]  # fmt: skip
    kinds = (
        ("token_id", pa.int32()),
        ("retained", pa.bool_()),
        ("context_left", pa.list_(pa.int32())),
    )
    table = pa.table(
        {name: pa.array([r[i] for r in rows], kind) for i, (name, kind) in enumerate(kinds)}
    )
    about = {"schema": "rocktok.occurrences/1", "log": {"vocab": vocab}, "parameters": parameters}
    pq.write_table(
        table.replace_schema_metadata({"rocktok": json.dumps(about)}), path, row_group_size=2
    )
    return path


def test_windows_of_occurrences(tmp_path: Path) -> None:
    path = occurrences(
        tmp_path / "o.parquet", {"window": 2, "gamma": 0.75, "similarity": "positional"}
    )
    found = load_occurrences(path, [5, 8, 100], vocab="v")
    assert (found.width, found.min_similarity, found.notes) == (2, 0.75, ())
    assert found.retained[5].tolist() == [[MISSING, 9], [1, 2]]
    assert found.persistent[5].tolist() == [[MISSING, 9], [1, 2], [3, 4]]
    rock = found.contexts(Candidate(5))
    assert rock is not None
    assert len(rock.left_WK) == 2
    # A rock without retained occurrences has no contexts; a control then has its persistent ones.
    assert found.contexts(Candidate(8)) is None
    control = found.contexts(Candidate(8, "control", 5))
    assert control is not None
    assert control.left_WK.tolist() == [[6, 7]]
    assert found.contexts(Candidate(100, "control", 5)) is None


@pytest.mark.parametrize(
    ("parameters", "given", "gamma", "noted"),
    [
        ({"similarity": "surprisal", "gamma": 0.6}, None, 0.6, True),
        ({"similarity": "hidden", "gamma": 0.3}, None, 0.5, True),
        ({"similarity": "hidden", "gamma": 0.3}, 0.9, 0.9, False),
        ({"similarity": "positional", "min_similarity": 1}, None, 1.0, False),
        ({}, None, 0.5, True),
    ],
)
def test_the_similarity_of_left_halves(
    parameters: dict[str, Any], given: float | None, gamma: float, noted: bool, tmp_path: Path
) -> None:
    path = occurrences(tmp_path / "o.parquet", {"window": 2, **parameters})
    found = load_occurrences(path, [5], min_similarity=given)
    assert found.min_similarity == gamma
    assert bool(found.notes) == noted


def test_files_that_are_no_occurrences(tmp_path: Path) -> None:
    good = occurrences(tmp_path / "o.parquet", {})
    with pytest.raises(LogError, match="its vocabulary differs"):
        load_occurrences(good, [5], vocab="w")
    pq.write_table(pa.table({"token_id": [1]}), tmp_path / "p.parquet")
    with pytest.raises(LogError, match=r"p.parquet: is not a result of `rocktok occurrences`"):
        load_occurrences(tmp_path / "p.parquet", [5])
    with pytest.raises(LogError, match=r"q.parquet: cannot be read"):
        load_occurrences(tmp_path / "q.parquet", [5])
    written(tmp_path / "r.parquet", "no Parquet")
    with pytest.raises(LogError, match=r"r.parquet: is not a result of"):
        load_occurrences(tmp_path / "r.parquet", [5])


# -- options ---------------------------------------------------------------------------------------

PLAIN: dict[str, Any] = {
    "modes": ("ban",), "placebos": True, "replace_at": "first", "max_new_tokens": 8,
    "temperature": 1.0, "rollouts": 1, "seeds": (0,), "baselines": 1, "chat": False,
    "min_similarity": None, "batch_tokens": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be 1 or more"),
        ({"baselines": 0}, "baselines is 0; it must be 1 or more"),
        ({"temperature": -1.0}, "temperature is -1; it must be 0 or more"),
        ({"temperature": np.nan}, "temperature is nan; it must be 0 or more"),
        ({"min_similarity": 0.0}, "min_similarity is 0; it must be above 0, and at most 1"),
        ({"modes": ("bann",)}, "modes has 'bann'; choose from ban, ban-in-context, replace"),
        ({"modes": ()}, "modes is empty"),
        ({"modes": ("ban", "ban")}, "modes has an entry twice"),
        ({"seeds": (1, 1)}, "seeds has an entry twice"),
        ({"seeds": (1 << 63,)}, "seeds has a number beyond 64 bits"),
        ({"replace_at": "last"}, "replace_at is 'last'; choose first or all"),
        ({"temperature": 0.0, "rollouts": 4}, "rollouts is 4, but greedy decoding writes the same"),
        ({"temperature": 0.0, "seeds": (1, 2)}, "seeds has 2 numbers, but greedy decoding"),
    ],
)
def test_options_out_of_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        Options(**{**PLAIN, **given})
    assert caught.value.parameter == message.split()[0]


def test_modes_that_lack_what_they_need() -> None:
    options = Options(**{**PLAIN, "modes": ("replace", "ban-in-context")})
    with pytest.raises(UsageError, match="modes has replace, which needs the teacher"):
        options.check_inputs(teacher=False, occurrences=True)
    with pytest.raises(UsageError, match="modes has ban-in-context, which needs occurrences"):
        options.check_inputs(teacher=True, occurrences=False)
    options.check_inputs(teacher=True, occurrences=True)
