"""`intervene` with real checkpoints on disk: what they write, going on, and its messages."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import rocktok
from rocktok.errors import LogError, RocktokError, UsageError
from rocktok.outcomes import Outcomes, load_outcomes
from rocktok.replay.intervene.arms import Candidate, Plan
from rocktok.replay.intervene.backend import Decoding, Span, Start
from rocktok.replay.intervene.draws import gumbel, row_keys
from rocktok.replay.intervene.loading import models_of
from rocktok.replay.intervene.problems import load_problems
from rocktok.replay.intervene.prompts import encode_prompts
from rocktok.replay.intervene.rules import Contexts, Rule, before
from rocktok.replay.intervene.transformers_backend import TransformersBackend
from rocktok.replay.intervene.trial import Case, Trial
from rocktok.temporary import holding
from tests.preloaded import Preloaded, run_preloaded
from tests.processes import run_command, wait_until
from tests.trl_models import PROMPTS, VOCAB_SIZE, make_model, make_tokenizer

LONGEST = 12
#: Checkers: whether the text's length is even, whether it was not cut, and one that fails.
CHECKER = """
def even(text, problem):
    return (len(text) + problem["answer"]) % 2 == 0


def whole(text, problem, truncated):
    return not truncated


def breaks(text, problem):
    raise ValueError("no such answer")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, a teacher, five problems and a checker."""
    folder = tmp_path_factory.mktemp("intervene")
    for name, seed, hidden in (("student", 1, 32), ("teacher", 2, 48)):
        make_model(seed, hidden=hidden).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    rows = [{"id": f"p{i}", "prompt": p, "answer": i} for i, p in enumerate(PROMPTS[:5])]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "length_of_text.py").write_text(CHECKER)
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkers are looked for in the current directory."""
    torch.set_num_threads(1)
    monkeypatch.chdir(folder)


def trial_of(folder: Path, temperature: float = 0.0, rollouts: int = 1) -> Trial:
    models = models_of(str(folder / "student"), str(folder / "teacher"))
    decoding = Decoding(LONGEST, temperature, models.terminal_ids)
    problems = load_problems(folder / "problems.jsonl")
    prompts = encode_prompts(problems, models.tokenizer, chat=False, size=VOCAB_SIZE, longest=99)
    # Three rows a batch.
    backend = models.backend(prompts, decoding, "float32", "cpu", 120)
    cases = [Case(p, 0, r) for p in range(len(problems)) for r in range(rollouts)]
    return Trial(backend, decoding, prompts, cases, [p.id for p in problems],
                 lambda _, text_T: bool(len(text_T) % 2), True, 120)  # fmt: skip


def most_frequent(texts: list[Any]) -> int:
    return int(np.bincount(np.concatenate(texts)).argmax())


def tokens(texts: Any) -> list[list[int]]:
    return [text.tolist() for text in texts]


def by_transformers(model: Any, prompt: Any, **options: Any) -> list[int]:
    """A completion as transformers writes it alone."""
    ids = torch.tensor([prompt.tolist()])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                           max_new_tokens=LONGEST, eos_token_id=[0], pad_token_id=1,
                           **options)  # fmt: skip
    return [int(v) for v in found[0, len(prompt) :]]


def test_greedy_completions_are_those_of_transformers(folder: Path) -> None:
    trial, student = trial_of(folder), make_model(1).eval()
    baseline = trial.baseline()
    assert tokens(baseline.texts) == [by_transformers(student, p) for p in trial.prompts]
    token = most_frequent(baseline.texts)
    plan = Plan(Candidate(token), "ban")
    first_N = trial.first_places(plan, baseline)
    fired = np.flatnonzero(first_N >= 0)
    texts = tokens(baseline.texts)
    own = trial.completions(plan, baseline, fired, first_N[fired])
    for case, text_T in zip(fired.tolist(), own, strict=True):
        texts[case] = text_T.tolist()
    assert len(fired) >= 2 and first_N.max() > 0
    wanted = [by_transformers(student, p, bad_words_ids=[[token]]) for p in trial.prompts]
    assert texts == wanted


def test_sampled_completions_are_those_of_whole_texts(folder: Path) -> None:
    trial, student = trial_of(folder, 1.0, rollouts=2), make_model(1).eval()
    baseline = trial.baseline()
    for case in (0, 1, 4):
        text: list[int] = []
        while not trial.decoding.ended(np.array(text, np.int32)):
            ids = torch.tensor([[*trial.prompt(case).tolist(), *text]])
            with torch.no_grad():
                logits_V = student(input_ids=ids).logits[0, -1].double().numpy()
            stream_1 = np.array([trial.stream(case)], np.uint64)
            noise_1V = gumbel(row_keys(stream_1, np.array([len(text)])), VOCAB_SIZE)
            text.append(int((logits_V + noise_1V[0]).argmax()))
        assert baseline.texts[case].tolist() == text
    assert baseline.texts[0].tolist() != baseline.texts[1].tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_shared_prefix_changes_nothing(folder: Path, temperature: float) -> None:
    """Each arm against the same backend from the beginning of every completion."""
    trial = trial_of(folder, temperature, rollouts=2 if temperature else 1)
    baseline = trial.baseline()
    token = most_frequent(baseline.texts)
    left = [before(text_T, int(np.flatnonzero(text_T == token)[-1]), 2)
            for text_T in baseline.texts if (text_T == token).any()]  # fmt: skip
    contexts = Contexts(np.unique(np.stack(left[:2]), axis=0), 1.0)
    for plan in (Plan(Candidate(token), "ban"), Plan(Candidate(token), "ban-in-context", contexts)):
        first_N = trial.first_places(plan, baseline)
        fired = np.flatnonzero(first_N >= 0)
        shared = tokens(baseline.texts)
        own = trial.completions(plan, baseline, fired, first_N[fired])
        for case, text_T in zip(fired.tolist(), own, strict=True):
            shared[case] = text_T.tolist()
        nothing = np.zeros(0, np.int32)
        cases = range(len(trial.cases))
        starts = [Start(trial.prompt(c), nothing, trial.stream(c)) for c in cases]
        whole = trial.backend.generate(starts, Rule(token, plan.contexts))
        assert shared == tokens(whole)
        assert len(fired) > 0


def test_scores_are_those_of_float64_logits(folder: Path) -> None:
    trial = trial_of(folder)
    before_T, token_T = np.array([5, 9, 7], np.int32), np.array([4, 8, 200], np.int32)
    nothing = Span(before_T, np.zeros(0, np.int32))
    empty, found, short = trial.backend.score(
        [nothing, Span(before_T, token_T), Span(before_T, token_T[:1])]
    )
    assert len(empty.loss_T) == len(empty.teacher_T) == 0
    ids = torch.tensor([[*before_T.tolist(), *token_T.tolist()]])
    with torch.no_grad():
        p, q = (make_model(seed, hidden=hidden).double().eval()(input_ids=ids).logits[0, 2:5]
                .log_softmax(-1) for seed, hidden in ((1, 32), (2, 48)))  # fmt: skip
    loss_T = (p.exp() * (p - q)).sum(-1).numpy()
    np.testing.assert_allclose(found.loss_T, loss_T, rtol=2e-5, atol=2e-5)
    assert found.teacher_T.tolist() == q.argmax(-1).tolist()
    np.testing.assert_allclose(short.loss_T, loss_T[:1], rtol=2e-5, atol=2e-5)


# -- the whole function ----------------------------------------------------------------------------


def intervene(folder: Path, output: Path, rocks: Any, **options: Any) -> Any:
    plain = {"teacher": str(folder / "teacher"), "checker": "length_of_text:even", "device": "cpu",
             "max_new_tokens": LONGEST, "batch_tokens": 100}  # fmt: skip
    problems = folder / "problems.jsonl"
    return rocktok.intervene(
        str(folder / "student"), problems, rocks, output, **{**plain, **options}
    )


@cache
def written(folder: Path, temperature: float = 0.0, rollouts: int = 1) -> list[Any]:
    """The baseline's completions."""
    return trial_of(folder, temperature, rollouts).baseline().texts


def frequent(texts: list[Any], number: int) -> list[int]:
    """The types that are written most often, without the end."""
    counts = np.bincount(np.concatenate(texts))
    counts[0] = 0
    return np.argsort(-counts, kind="stable")[:number].tolist()


def values(found: Outcomes, arm: str) -> dict[str, Any]:
    (place,) = (i for i, one in enumerate(found.arms) if one.name == arm)
    return {name: column[place].ravel() for name, column in found.columns.items()}


def test_outcomes_of_sampled_text(folder: Path, tmp_path: Path) -> None:
    texts = written(folder, 1.0, 2)
    rocks = [*frequent(texts, 2), 319]
    rows = [{"token_id": v, "is_rock": True, "frequency": 9, "mean_loss": 1.0} for v in rocks]
    vocab = models_of(str(folder / "student"), None).vocab.identity
    detected = tmp_path / "rocks.json"
    detected.write_text(
        json.dumps({"schema": "rocktok.detect/3", "log": {"vocab": vocab}, "tokens": rows})
    )
    kinds = (
        ("token_id", pa.int32()),
        ("retained", pa.bool_()),
        ("context_left", pa.list_(pa.int32())),
    )
    # The token before the first rock, once: the arm acts wherever both stand side by side.
    (token,) = [int(text_T[place - 1]) for text_T in texts
                for place in np.flatnonzero(text_T == rocks[0]) if place][:1]  # fmt: skip
    table = pa.table({name: pa.array([value], kind) for (name, kind), value in
                      zip(kinds, (rocks[0], True, [token]), strict=True)})  # fmt: skip
    about = {"schema": "rocktok.occurrences/1", "log": {"vocab": vocab},
             "parameters": {"window": 1, "similarity": "positional", "gamma": 1.0}}  # fmt: skip
    pq.write_table(table.replace_schema_metadata({"rocktok": json.dumps(about)}),
                   tmp_path / "occurrences.parquet")  # fmt: skip
    told: list[tuple[int, int]] = []
    done = intervene(
        folder, tmp_path / "o.parquet", detected, modes=("ban", "ban-in-context", "replace"),
        temperature=1.0, rollouts=2, baselines=2, replace_at="all", benchmark="sums",
        occurrences=tmp_path / "occurrences.parquet", progress=lambda *both: told.append(both),
    )  # fmt: skip
    assert told[0][1] == 20
    assert (told[-1][0], len({total for _, total in told})) == (told[-1][1], 2)
    found = load_outcomes(tmp_path / "o.parquet")
    assert found.about["benchmark"] == "sums"
    assert found.about["tokenizer"] == vocab
    assert found.about["decoding"]["temperature"] == 1.0
    assert (found.draws, len(found.problems), found.baselines) == (2, 5, 2)
    names = [arm.name for arm in found.arms]
    assert {f"{mode}:{v}" for mode in ("ban", "replace") for v in rocks[:2]} < set(names)
    assert {"ban:319", "replace:319"} <= {row["arm"] for row in found.never_fired}
    assert f"ban-in-context:{rocks[0]}" in names
    assert f"ban-in-context:{rocks[1]}" not in {*names, *(r["arm"] for r in found.never_fired)}
    base = values(found, "baseline")
    again = values(found, "baseline-2")
    assert not base["fired"].any() and not again["fired"].any()
    assert (base["num_tokens"] != again["num_tokens"]).any() or (
        base["correct"] != again["correct"]
    ).any()
    assert base["num_tokens"].tolist() == [len(text_T) for text_T in texts]
    for arm, row in zip(found.arms[2:], done.arms, strict=True):
        own = values(found, arm.name)
        assert (arm.name, arm.token_id) == (row.arm, row.token_id)
        assert row.fired == own["fired"].sum() > 0
        assert row.delta == pytest.approx(own["correct"].mean() - base["correct"].mean())
        still = ~own["fired"]
        np.testing.assert_array_equal(own["correct"][still], base["correct"][still])
        np.testing.assert_array_equal(own["num_tokens"][still], base["num_tokens"][still])
        assert np.isnan(own["loss_after"][still]).all()
        assert (own["first_position"] >= 0).tolist() == own["fired"].tolist()
        if arm.mode == "ban":
            held = [bool((text_T == arm.token_id).any()) for text_T in texts]
            assert own["fired"].tolist() == held
        if arm.name == f"ban-in-context:{rocks[0]}":
            pair = f" {token} {rocks[0]} "
            held = [pair in " " + " ".join(map(str, text)) + " " for text in tokens(texts)]
            assert own["fired"].tolist() == held
        behind = own["fired"] & (own["first_position"] < np.minimum(
            own["num_tokens"], base["num_tokens"]) - 1)  # fmt: skip
        for name in ("loss_after", "baseline_loss_after", "edit_after"):
            assert np.isfinite(own[name][behind]).all()
    placebos = [arm for arm in found.arms if arm.group == "placebo"]
    assert {arm.control_of for arm in placebos} <= set(rocks[:2])
    assert placebos
    assert not {arm.token_id for arm in placebos} & {*rocks, 0, 1}
    assert any("have no retained occurrences" in note for note in done.notes)
    assert repr(done).startswith("Accuracy ")
    assert "<table" in done._repr_html_()
    assert json.loads(done.to_json())["schema"] == "rocktok.intervene/1"
    assert done.table["arm"].tolist() == [row.arm for row in done.arms]
    assert not (tmp_path / "o.parquet.partial").exists()


def test_completions_that_are_cut_are_told_and_counted(folder: Path, tmp_path: Path) -> None:
    """A checker with such a parameter is told; the table, the result and a note count them."""
    texts = written(folder, 1.0, 2)
    (rock,) = frequent(texts, 1)
    done = intervene(folder, tmp_path / "o.parquet", [rock], checker="length_of_text:whole",
                     temperature=1.0, rollouts=2)  # fmt: skip
    found = load_outcomes(tmp_path / "o.parquet")
    ends = models_of(str(folder / "student"), None).terminal_ids
    cut = [len(text_T) == LONGEST and int(text_T[-1]) not in ends for text_T in texts]
    assert True in cut
    assert values(found, "baseline")["truncated"].tolist() == cut
    assert done.truncated == (sum(cut),)
    for arm, row in zip(found.arms[1:], done.arms, strict=True):
        own = values(found, arm.name)
        assert row.truncated == own["truncated"].sum()
        assert (own["correct"] == ~own["truncated"]).all()
        assert (own["num_tokens"][own["truncated"]] == LONGEST).all()
    assert (
        f"{sum(cut)} of 10 completions of the baseline were cut at --max-new-tokens {LONGEST}, "
        "before they ended; the checker saw what there was of them"
    ) in done.notes


def test_a_stopped_run_goes_on_to_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rocks = frequent(written(folder), 2)
    whole, output = tmp_path / "whole.parquet", tmp_path / "o.parquet"
    calls: list[int] = []
    generate = TransformersBackend.generate

    def counted(self: Any, starts: Any, rule: Any) -> Any:
        calls.append(len(starts))
        return generate(self, starts, rule)

    def stopped(self: Any, starts: Any, rule: Any) -> Any:
        if len(calls) == 4:
            raise KeyboardInterrupt
        return counted(self, starts, rule)

    options = {"modes": ("ban", "replace"), "baselines": 3}
    monkeypatch.setattr(TransformersBackend, "generate", counted)
    done = intervene(folder, whole, rocks, **options)
    assert any("one baseline stands for 3" in note for note in done.notes)
    all_calls = len(calls)
    assert all_calls > 5
    calls.clear()
    monkeypatch.setattr(TransformersBackend, "generate", stopped)
    with pytest.raises(KeyboardInterrupt):
        intervene(folder, output, rocks, **options)
    parts = tmp_path / "o.parquet.partial"
    assert not output.exists()
    assert len(list(parts.glob("*.npz"))) == 4
    with pytest.raises(LogError, match="contains parts of a run with other models, problems or"):
        intervene(folder, output, rocks, **{**options, "max_new_tokens": LONGEST - 1})
    with holding(parts), pytest.raises(LogError, match="another process is writing it"):
        intervene(folder, output, rocks, **options)
    calls.clear()
    monkeypatch.setattr(TransformersBackend, "generate", counted)
    intervene(folder, output, rocks, **options)
    assert len(calls) == all_calls - 4
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.parquet", "whole.parquet"]


@pytest.mark.long
@pytest.mark.exhaustive
def test_a_killed_process_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    def command(output: Path) -> list[str]:
        rocks = ",".join(map(str, frequent(written(folder), 3)))
        return ["intervene", "--student", "student", "--teacher",
                "teacher", "--problems", "problems.jsonl", "--rocks", rocks, "--modes",
                "ban,replace", "--checker", "length_of_text:even", "--max-new-tokens",
                str(LONGEST), "--batch-tokens", "1", "--device", "cpu", "-o",
                str(output)]  # fmt: skip

    whole, output = tmp_path / "whole.parquet", tmp_path / "o.parquet"
    assert run_command(*command(whole))[0] == 0
    parts = tmp_path / "o.parquet.partial"
    for number in (2, 8):
        with Preloaded("-m", "rocktok", *command(output)) as process:
            wait_until(lambda n=number: len(list(parts.glob("*.npz"))) >= n, process)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    assert run_preloaded("-m", "rocktok", *command(output)).returncode == 0
    assert output.read_bytes() == whole.read_bytes()
    assert not parts.exists()


# -- the command -----------------------------------------------------------------------------------


def command(output: Path, *more: Any, student: str = "student") -> tuple[int, str, str]:
    return run_command(
        "intervene", "--student", student, "--problems", "problems.jsonl", "--rocks", "270,319",
        "--max-new-tokens", LONGEST, "--device", "cpu", "-o", output, *more,
    )  # fmt: skip


def test_the_command(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.parquet"
    code, printed, error = command(output, "--checker", "length_of_text:even", "--no-placebo")
    assert (code, error.count("rocktok: note: ")) == (0, 3)
    assert "completions of the baseline were cut at --max-new-tokens" in error
    found = load_outcomes(output)
    share = values(found, "baseline")["correct"].mean()
    arms = len(found.arms) - 1
    assert re.fullmatch(
        rf"Accuracy {share:.1%} without intervention; {arms} of 2 arms acted.*\.\n"
        rf"5 problems, 5 completions per arm; `rocktok pillars` tests the differences\.\n"
        rf"{re.escape(str(output))}\n", printed,
    )  # fmt: skip
    assert found.about["benchmark"] == "problems"
    assert found.about["decoding"]["temperature"] == "greedy"
    assert np.isnan(found.columns["loss_after"]).all()
    before_ = output.read_bytes()
    assert command(output) == (
        2, "", f"rocktok: {output}: exists already; give --force to replace it\n",
    )  # fmt: skip
    forced = command(output, "--checker", "length_of_text:even", "--no-placebo", "--force", "-q")
    assert forced == (0, printed, "")
    assert output.read_bytes() == before_


def other_tokenizer(folder: Path) -> None:
    made = make_tokenizer()
    made.add_tokens(["xyzzy"])
    make_model(2).save_pretrained(folder / "unlike")
    made.save_pretrained(folder / "unlike")


def detect_file(folder: Path) -> None:
    rows = [{"token_id": 5, "is_rock": True, "frequency": 9, "mean_loss": 1.0}]
    content = {"schema": "rocktok.detect/3", "log": {"vocab": "other"}, "tokens": rows}
    (folder / "rocks.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("options", "code", "message", "prepare"),
    [
        (["--student", "nothing here"], 1, "nothing here: is neither a directory nor the", None),
        (["--student", "."], 1, ".: has no config.json; give what save_pretrained writes", None),
        (["--teacher", "unlike"], 1, "the first that differs is 279: None against 'xyzzy'",
         other_tokenizer),
        (["--rocks", "320"], 1, "rocks: 320 is no token id; student has ids from 0 to 319", None),
        (["--rocks", "rocks.json"], 1, "its vocabulary differs from that of student", detect_file),
        (["--rocks", "none.json"], 1, "none.json: cannot be read (No such file", None),
        (["--problems", "none.jsonl"], 1, "none.jsonl: cannot be read (No such file", None),
        (["--problems", "length_of_text.py"], 1, "length_of_text.py: line 2: is not JSON", None),
        (["--max-new-tokens", "120"], 1, "problem 'p0': its prompt has ", None),
        (["--chat"], 1, "problem 'p0': its prompt cannot be encoded (", None),
        (["--checker", "length_of_text:no"], 2, "--checker length_of_text:no cannot be imp", None),
        (["--modes", "replace"], 2, "--modes has replace, which needs the teacher's tokens", None),
        (["--max-new-tokens", "0"], 2, "--max-new-tokens is 0; it must be 1 or more", None),
        (["--rollouts", "4"], 2, "--rollouts is 4, but greedy decoding writes the same", None),
        (["-o", "-"], 2, "the output is a Parquet file; give its name", None),
        (["-o", "/dev/null/o.parquet"], 1, "/dev/null/o.parquet: cannot be written (", None),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    options: list[str], code: int, message: str, prepare: Callable[[Path], None] | None,
    folder: Path, tmp_path: Path,
) -> None:  # fmt: skip
    if prepare is not None:
        prepare(folder)
    found, printed, error = command(tmp_path / "o.parquet", *options)
    assert (found, printed) == (code, "")
    assert message in error
    assert "Traceback" not in error
    if code == 1:
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_checker_that_fails_names_the_problem_and_can_be_corrected(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "o.parquet"
    code, printed, error = command(output, "--checker", "length_of_text:breaks")
    assert (code, printed, output.exists()) == (1, "", False)
    assert re.fullmatch(
        r"rocktok: problem 'p\d': the checker length_of_text:breaks failed \(ValueError: no such "
        r"answer\); correct it\n", error,
    )  # fmt: skip
    # What was written is not written again.
    assert len(list((tmp_path / "o.parquet.partial").glob("*.npz"))) == 1
    assert command(output, "--checker", "length_of_text:even", "-q")[0] == 0
    assert not (tmp_path / "o.parquet.partial").exists()


def test_errors_of_the_function_are_of_the_library(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="checker is 'x'"):
        intervene(folder, tmp_path / "o.parquet", [5], checker="x")
    (folder / "bare").mkdir(exist_ok=True)
    make_model(1).save_pretrained(folder / "bare")
    with pytest.raises(RocktokError, match="bare: has no tokenizer, which prompts and answers"):
        rocktok.intervene(str(folder / "bare"), folder / "problems.jsonl", [5],
                          tmp_path / "o.parquet", device="cpu")  # fmt: skip
