"""The paper's own files: what is in them, their ranking, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import rocktok
from rocktok.errors import LogError, UsageError
from rocktok.importers.torch_files import load_pt, load_with_list
from tests.importers.files import Malicious, authors_file, authors_records, damage, pickled
from tests.importers.reading import close, rows, sequences
from tests.processes import run_command


def test_every_record_becomes_a_row(tmp_path: Path) -> None:
    records = authors_records(200)
    done = rocktok.import_log("rock-token", authors_file(tmp_path / "a.pt", records),
                              tmp_path / "log")  # fmt: skip
    assert (done.rows, done.sequences, done.exactness, done.steps) == (200, 5, "exact", (0,))
    found = rows(tmp_path / "log")
    theirs = pd.DataFrame(records)
    close(found["loss"], theirs["kl"])
    for ours, name in (("token_id", "token_id"), ("position", "abs_position"),
                       ("sequence_id", "sample_idx")):  # fmt: skip
        assert found[ours].tolist() == theirs[name].tolist()
    assert sequences(tmp_path / "log")["num_tokens"].tolist() == [40] * 5
    run = rocktok.open(tmp_path / "log").run
    assert run is not None
    assert (run["student"], run["teacher"], run["vocab_size"]) == ("student", "teacher", 500)


def test_their_top_100_in_their_order(tmp_path: Path) -> None:
    """Theirs by pandas: frequency × mean, of types seen twice, without the 5 most frequent."""
    records = authors_records(30_000, seed=4)
    rocktok.import_log("rock-token", authors_file(tmp_path / "a.pt", records), tmp_path / "log")
    grouped = pd.DataFrame(records).groupby("token_id")["kl"].agg(["count", "mean"])
    grouped = grouped.drop(grouped.sort_values("count", ascending=False).index[:5])
    grouped = grouped[grouped["count"] >= 2]
    grouped["score"] = grouped["count"] * grouped["mean"]
    theirs = grouped.sort_values("score", ascending=False).head(100)
    found = rocktok.detect(
        tmp_path / "log", rule="top-k", context="off", min_frequency=2, exclude_most_frequent=5
    )
    ours = [row for row in found.tokens if row["is_rock"]]
    assert [row["token_id"] for row in ours] == theirs.index.tolist()
    close([row["rock_score"] for row in ours], theirs["score"])
    code, printed, _ = run_command(
        "detect", tmp_path / "log", "--rule", "top-k", "--context", "off", "--min-frequency", 2,
        "--exclude-most-frequent", 5, "--format", "csv", "-q",
    )  # fmt: skip
    assert code == 0
    listed = pd.read_csv(io.StringIO(printed))
    assert listed[listed["is_rock"]]["token_id"].tolist() == theirs.index.tolist()


def test_several_files_are_steps(tmp_path: Path) -> None:
    for step in (10, 2):
        authors_file(
            tmp_path / f"rock_token_occurrences_step{step}.pt", authors_records(80, step),
            student_id=f"student-{step}",
        )  # fmt: skip
    done = rocktok.import_log("rock-token", tmp_path, tmp_path / "log")
    assert done.steps == (2, 10)
    found = rows(tmp_path / "log")
    for step in (2, 10):
        close(found[found["step"] == step]["loss"], [r["kl"] for r in authors_records(80, step)])
    # A problem is a prompt, whichever student answers it.
    assert sequences(tmp_path / "log")["prompt_id"].tolist() == ["0", "1", "0", "1"]


def test_losses_of_the_same_text_become_fixed(tmp_path: Path) -> None:
    n = 12
    rng = np.random.default_rng(0)
    columns = {
        name: torch.tensor(rng.exponential(1, n), dtype=torch.float32)
        for name in ("loss_before", "loss_after", "teacher_entropy", "student_entropy_before",
                     "student_entropy_after")
    }  # fmt: skip
    torch.save(
        {**columns, "token_ids": torch.arange(n), "source_datasets": ["math"] * n,
         "sequence_indices": [0] * 5 + [3] * 7}, tmp_path / "phase2_losses.pt",
    )  # fmt: skip
    done = rocktok.import_log("rock-token", tmp_path, tmp_path / "log", steps=(0, 50))
    assert done.steps == (0, 50)
    found = rows(tmp_path / "log", "fixed")
    for step, name in ((0, "before"), (50, "after")):
        part = found[found["step"] == step]
        close(part["loss"], columns[f"loss_{name}"])
        close(part["student_entropy"], columns[f"student_entropy_{name}"])
        assert part["position"].tolist() == [*range(5), *range(7)]
    assert sequences(tmp_path / "log")["domain"].tolist() == ["math", "math"]


def test_losses_below_zero_are_not_called_exact(tmp_path: Path) -> None:
    records = authors_records(40)
    records[3]["kl"] = -0.01
    done = rocktok.import_log("rock-token", authors_file(tmp_path / "a.pt", records),
                              tmp_path / "log")  # fmt: skip
    assert done.exactness == "truncated"
    assert "losses go down to -0.01" in " ".join(done.notes)


def test_the_list_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    path = authors_file(tmp_path / "a.pt", authors_records(3_000))
    head, items = load_with_list(path, "occurrences")
    whole = load_pt(path)
    assert items == whole.pop("occurrences")
    assert head.keys() == whole.keys()
    assert torch.equal(head["frequencies"], whole["frequencies"])


def test_other_layouts_are_left_to_torch(tmp_path: Path) -> None:
    """A key after the list, records that hold tensors, the old format without a zip."""
    after = authors_file(tmp_path / "a.pt", authors_records(80), more=torch.arange(3))
    assert len(load_with_list(after, "occurrences")[1]) == 80
    torch.save({"occurrences": [{"kl": torch.tensor(1.0)}]}, tmp_path / "b.pt")
    assert load_with_list(tmp_path / "b.pt", "occurrences")[1][0]["kl"] == 1.0
    torch.save({"occurrences": [{"kl": 1.0}]}, tmp_path / "c.pt",
               _use_new_zipfile_serialization=False)  # fmt: skip
    assert load_with_list(tmp_path / "c.pt", "occurrences") == ({}, [{"kl": 1.0}])


def _refused(tmp_path: Path, *paths: Path, **options: Any) -> str:
    output = tmp_path / "log"
    with pytest.raises((LogError, UsageError)) as error:
        rocktok.import_log("rock-token", paths, output, **options)
    assert not output.exists()
    return str(error.value)


@pytest.mark.parametrize("place", ["beside", "within"])
def test_code_is_refused_by_name_and_not_run(tmp_path: Path, place: str) -> None:
    made, path = tmp_path / "made", tmp_path / "a.pt"
    records: list[Any] = authors_records(80)
    if place == "within":
        records[7]["line_index"] = Malicious(made)
        authors_file(path, records)
    else:
        authors_file(path, records, student_key=Malicious(made))
    message = _refused(tmp_path, path)
    assert f"{path}: holds posix.system, which could run code, and is not read" in message
    assert not made.exists()


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for name in ("a.pkl", "a.pt"):
        path = pickled(tmp_path / name, Malicious(made))
        message = _refused(tmp_path, path)
        assert message.startswith(f"{path}: ")
        assert "run code" in message or "run any code" in message
    assert not made.exists()


def test_what_is_not_theirs(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": torch.zeros(3)}, path)
    assert "is no file of the paper's scripts" in _refused(tmp_path, path)
    torch.save([1, 2], path)
    assert "is no file of the paper's scripts" in _refused(tmp_path, path)
    authors_file(path, [{"token_id": 3}])
    assert "have no sample_idx, kl, abs_position" in _refused(tmp_path, path)
    torch.save({"gradient_sum": torch.zeros(2, 2)}, path)
    assert "holds sums of gradients without norms" in _refused(tmp_path, path)
    path.write_text("a,b\n1,2\n")
    assert str(path) in _refused(tmp_path, path)
    assert "no such file" in _refused(tmp_path, tmp_path / "nowhere.pt")
    lists = tmp_path / "rock_vs_control.csv"
    lists.write_text("rock_id\n5\n")
    assert "is a list of token types, without losses" in _refused(tmp_path, lists)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kl": None}, "occurrence 7: kl is None; it must be a number"),
        ({"kl": float("nan")}, "occurrence 7: kl is nan; it must be finite"),
        ({"token_id": "5"}, "occurrence 7: token_id is '5'; it must be a number"),
        ({"token_id": 900}, "token_id 900 is outside the vocabulary of 500: ids of another"),
        ({"abs_position": 6}, "sample 0 has position 6 twice: these are records of two runs"),
    ],
)
def test_records_that_cannot_be(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    records = authors_records(80)
    records[7] |= change
    assert said in _refused(tmp_path, authors_file(tmp_path / "a.pt", records))


def test_records_that_are_not_all_there(tmp_path: Path) -> None:
    whole = torch.bincount(torch.tensor([r["token_id"] for r in authors_records(80)]),
                           minlength=500)  # fmt: skip
    path = authors_file(tmp_path / "a.pt", authors_records(79), frequencies=whole)
    assert "the records are not all there" in _refused(tmp_path, path)


def test_files_of_two_runs(tmp_path: Path) -> None:
    one = authors_file(tmp_path / "a1.pt", authors_records(40))
    two = authors_file(tmp_path / "a2.pt", authors_records(40, 1), teacher_id="other")
    assert "these are files of two runs" in _refused(tmp_path, one, two)
    assert "steps has 3 for" in _refused(tmp_path, one, two, steps=(3, 3))


def test_a_last_file_that_is_cut_is_named_and_left_out(tmp_path: Path) -> None:
    files = [authors_file(tmp_path / f"a{n}.pt", authors_records(400, n)) for n in (1, 2, 3)]
    damage(files[2])
    done = rocktok.import_log("rock-token", files, tmp_path / "log")
    assert done.steps == (1, 2)
    assert any(f"left out, as of a run that was killed: {files[2]}" in n for n in done.notes)
    damage(files[1])
    assert str(files[1]) in _refused(tmp_path / "other", *files)
    assert "truncated, or not written by torch.save" in _refused(tmp_path / "other", files[1])
