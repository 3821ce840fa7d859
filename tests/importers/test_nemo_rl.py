"""NeMo-RL's diagnostics: sampled losses, and bounds from the likeliest tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import rocktok
from rocktok.errors import LogError, UsageError
from tests.importers.files import damage, nemo_files, write_lines
from tests.importers.reading import close, rows, sequences


def test_token_statistics_are_sampled(tmp_path: Path) -> None:
    truth = [nemo_files(tmp_path / "d", step, top_k=False) for step in (1, 3)]
    done = rocktok.import_log("nemo-rl", tmp_path / "d", tmp_path / "log")
    # Written during step N, before its update.
    assert (done.steps, done.exactness) == ((0, 2), "sampled")
    found = rows(tmp_path / "log")
    student = np.concatenate([t["tokens"]["student_prev_logprobs"].numpy() for t in truth])
    teacher = np.concatenate([t["tokens"]["teacher_logprobs"].numpy() for t in truth])
    close(found["loss"], student - teacher)
    assert found["token_id"].tolist() == [int(i) for t in truth for i in t["token"]]
    # Importance-weighted terms of single samples are no entropies.
    assert "student_entropy" not in found and "teacher_entropy" not in found
    listed = sequences(tmp_path / "log")
    assert listed["prompt_id"].tolist()[:4] == ["step-1-prompt-0"] * 2 + ["step-1-prompt-1"] * 2
    assert listed["rollout"].tolist() == [0, 1, 0, 1] * 2
    assert listed["correct"].tolist() == [True, False] * 4
    assert listed["num_tokens"].tolist() == [6] * 8
    assert set(listed["domain"]) == {"math"}


def test_top_k_statistics_are_lower_bounds(tmp_path: Path) -> None:
    truth = nemo_files(tmp_path / "d", 1, k=12)
    floor = float(truth["logq"].min()) - 0.5
    done = rocktok.import_log("nemo-rl", tmp_path / "d", tmp_path / "log",
                              min_teacher_logprob=floor)  # fmt: skip
    assert done.exactness == "topk"
    found = rows(tmp_path / "log")
    whole = (np.exp(truth["logp"]) * (truth["logp"] - truth["logq"])).sum(axis=1)
    # bfloat16 logits near 20 are off by up to 2^-9 of that, 0.04.
    assert (found["loss"] <= whole + 0.1).all()
    assert np.abs(found["loss"] - whole).mean() < 0.5 * whole.mean()
    close(found["log_ratio"], found["student_logprob"] - found["teacher_logprob"])
    (said,) = (note for note in done.notes if "the mean loss is between" in note)
    low, high = (float(word) for word in (said.split()[5], said.split()[7]))
    assert low <= whole.mean() + 0.1
    assert high >= whole.mean() - 0.1


def test_a_floor_that_the_teacher_breaks_is_said(tmp_path: Path) -> None:
    truth = nemo_files(tmp_path / "d", 1, k=8)
    some = float(np.median(np.sort(truth["logq"], axis=1)[:, -8]))
    done = rocktok.import_log("nemo-rl", tmp_path / "d", tmp_path / "log",
                              min_teacher_logprob=some)  # fmt: skip
    assert any("positions below it left out" in note for note in done.notes)
    nowhere = rocktok.import_log("nemo-rl", tmp_path / "d", tmp_path / "other",
                                 min_teacher_logprob=-0.001)  # fmt: skip
    assert any("there is no upper bound" in note for note in nowhere.notes)


def test_top_k_alone(tmp_path: Path) -> None:
    nemo_files(tmp_path / "d", 2)
    (tmp_path / "d/opd_token_stats_step2.pt").unlink()
    rocktok.import_log("nemo-rl", tmp_path / "d", tmp_path / "log")
    assert "student_logprob" not in rows(tmp_path / "log")


def _change(path: Path, **changes: Any) -> None:
    torch.save({**torch.load(path, weights_only=True), **changes}, path)


def test_samples_that_the_loss_leaves_out(tmp_path: Path) -> None:
    nemo_files(tmp_path / "d", 1, top_k=False)
    path = tmp_path / "d/opd_token_stats_step1.pt"
    content = torch.load(path, weights_only=True)
    content["teacher_logprobs"][6:12] = float("-inf")
    _change(path, teacher_logprobs=content["teacher_logprobs"],
            sample_loss_mask=torch.tensor([1.0, 0.0, 1.0, 1.0]))  # fmt: skip
    done = rocktok.import_log("nemo-rl", path, tmp_path / "log")
    assert done.sequences == 3
    assert any("1 sample left out" in note for note in done.notes)


def test_subsampled_tokens_are_marked(tmp_path: Path) -> None:
    nemo_files(tmp_path / "d", 1)
    path = tmp_path / "d/opd_topk_stats_step1.pt"
    content = torch.load(path, weights_only=True)
    keep = torch.arange(0, 24, 3)
    rows_of = [k for k, v in content.items() if hasattr(v, "shape") and v.shape[:1] == (24,)]
    _change(path, topk_tokens_subsampled=True, **{key: content[key][keep] for key in rows_of})
    done = rocktok.import_log("nemo-rl", tmp_path / "d", tmp_path / "log")
    assert done.rows == 8
    assert rows(tmp_path / "log")["position"].tolist() == [0, 3] * 4
    assert any("are of a sample of the tokens" in note for note in done.notes)
    run = rocktok.open(tmp_path / "log").run
    assert run is not None and run["extra"]["subsampled"] is True


def _refused(tmp_path: Path, *paths: Path, **options: Any) -> str:
    with pytest.raises((LogError, UsageError)) as error:
        rocktok.import_log("nemo-rl", paths, tmp_path / "log", **options)
    assert not (tmp_path / "log").exists()
    return str(error.value)


def test_what_is_refused(tmp_path: Path) -> None:
    nemo_files(tmp_path / "d", 1)
    tokens, top_k = (tmp_path / f"d/opd_{kind}_stats_step1.pt" for kind in ("token", "topk"))
    other = tmp_path / "e/opd_token_stats_step1.pt"
    nemo_files(tmp_path / "e", 1, seed=5)
    assert "files of two runs" in _refused(tmp_path, tokens, other)
    assert f"{top_k}: has other tokens than {other}" in _refused(tmp_path, top_k, other)
    nemo_files(tmp_path / "d", 2, top_k=False)
    assert "step 2 has other statistics than step 1" in _refused(tmp_path, tmp_path / "d")
    _change(tokens, step=7)
    assert f"{tokens}: is of step 7, its name says 1" in _refused(tmp_path, tokens)
    _change(tokens, step=1, payload_type="opd_topk_offline_inputs")
    assert "holds inputs for a later replay" in _refused(tmp_path, tokens)
    torch.save({"step": 1}, tokens)
    assert "it is no diagnostic of NeMo-RL" in _refused(tmp_path, tokens)
    assert "min_teacher_logprob is 1" in _refused(tmp_path, top_k, min_teacher_logprob=1.0)


def _top_k(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    nemo_files(tmp_path / "d", 1)
    (tmp_path / "d/opd_token_stats_step1.pt").unlink()
    path = tmp_path / "d/opd_topk_stats_step1.pt"
    return path, torch.load(path, weights_only=True)


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_top_k_statistics_that_are_no_distributions(tmp_path: Path, who: str) -> None:
    path, content = _top_k(tmp_path)
    logits, total = content[f"{who}_topk_logits"], content[f"{who}_V_logsumexp"]
    ids = content[f"{who}_topk_token_ids"]
    for place, value, said in (
        (logits, float("nan"), "a log-probability is no finite number"),
        (logits, float("-inf"), "a log-probability is no finite number"),
        (total, float("inf"), "a log-probability is no finite number"),
        (total, 12.0, "its likeliest tokens have a probability above 1"),
    ):
        changed = place.clone()
        changed[7] = value
        _change(path, **{
            f"{who}_topk_logits": changed if place is logits else logits,
            f"{who}_V_logsumexp": changed if place is total else total,
        })  # fmt: skip
        assert f"{path}: the {who}'s top-k statistics: token 7: {said}" in _refused(tmp_path, path)
    _change(path, **{f"{who}_topk_logits": logits, f"{who}_V_logsumexp": total})
    twice = ids.clone()
    twice[9, 3] = twice[9, 0]
    _change(path, **{f"{who}_topk_token_ids": twice})
    assert "token 9: an id is listed twice" in _refused(tmp_path, path)
    _change(path, **{f"{who}_topk_token_ids": ids[:, :5]})
    assert f"{who}: ids of shape (24, 5), logits of (24, 8)" in _refused(tmp_path, path)


def test_what_stands_in_samples_that_do_not_count(tmp_path: Path) -> None:
    path, content = _top_k(tmp_path)
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0])
    for key in ("student_topk_logits", "teacher_V_logsumexp"):
        content[key][6:12] = float("nan")
    _change(path, **{**content, "sample_loss_mask": mask})
    done = rocktok.import_log("nemo-rl", path, tmp_path / "log", min_teacher_logprob=-60.0)
    assert done.sequences == 3
    assert not any("nan" in note for note in done.notes)


def test_rounded_logits_are_no_error(tmp_path: Path) -> None:
    """Of a token that is nearly sure, bfloat16 makes more than a probability of 1."""
    path, content = _top_k(tmp_path)
    content["student_V_logsumexp"][:] = 59.9
    content["student_topk_logits"][:] = 0.0
    content["student_topk_logits"][:, 0] = 60.0  # 59.9 in bfloat16
    _change(path, **content)
    rocktok.import_log("nemo-rl", path, tmp_path / "log")
    assert np.isfinite(rows(tmp_path / "log")["loss"]).all()


def test_a_last_file_that_is_cut(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        nemo_files(tmp_path / "d", step, top_k=False)
    path = damage(tmp_path / "d/opd_token_stats_step3.pt")
    done = rocktok.import_log("nemo-rl", tmp_path / "d", tmp_path / "log")
    assert done.steps == (0, 1)
    assert any(str(path) in note for note in done.notes)


def test_offline_inputs_become_sequences(tmp_path: Path) -> None:
    content = {
        "format_version": 1, "payload_type": "opd_topk_offline_inputs", "step": 3,
        "input_ids": torch.tensor([[1, 2, 3, 4, 5, 0], [1, 2, 6, 7, 0, 0], [9, 9, 9, 0, 0, 0]]),
        "token_mask": torch.tensor([[0, 0, 1, 0, 1, 0], [0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0]]),
        "input_length": torch.tensor([5, 4, 3]), "reward": torch.tensor([1.0, 0.5, 1.0]),
        "sample_loss_mask": torch.tensor([1.0, 1.0, 0.0]),
    }  # fmt: skip
    path = tmp_path / "opd_topk_offline_inputs_step3.pt"
    torch.save(content, path)
    output = tmp_path / "texts.parquet"
    done = rocktok.import_log("nemo-rl-inputs", tmp_path, output)
    assert (done.steps, done.exactness) == ((2,), None)
    found = pq.read_table(output).to_pylist()
    assert [row["prompt_token_ids"] for row in found] == [[1, 2], [1, 2, 3, 4], [1, 2]]
    assert [row["token_ids"] for row in found] == [[3], [5], [6, 7]]
    assert [row["correct"] for row in found] == [True, True, None]
    assert len({row["prompt_id"] for row in found}) == 1
    for changes, said in (
        ({"token_mask": torch.ones(2, 6)}, "are not of one shape"),
        ({"token_mask": torch.ones(3, 6)}, "sample 0: its first token is scored"),
    ):
        torch.save({**content, **changes}, path)
        with pytest.raises(LogError, match=said):
            rocktok.import_log("nemo-rl-inputs", path, tmp_path / "other.parquet")
    torch.save({"step": 1}, path)
    with pytest.raises(LogError, match="it is no offline input of NeMo-RL"):
        rocktok.import_log("nemo-rl-inputs", path, tmp_path / "other.parquet")
    assert not (tmp_path / "other.parquet").exists()


def test_train_data(tmp_path: Path) -> None:
    line = {
        "content": "x", "rewards": 1.0, "input_lengths": 6, "token_ids": [4, 5, 6, 7, 8, 9, 0, 0],
        "token_loss_mask": [0, 0, 1, 0, 1, 1, 0, 0], "sample_loss_mask": 1.0,
        "advantages": [0, 0, 0.5, 0, -0.25, -1.0, 0, 0],
        "prev_logprobs": [0, 0, -1.0, 0, -0.5, -0.25, 0, 0],
    }  # fmt: skip
    folder = tmp_path / "d"
    write_lines(folder / "train_data_step4.jsonl", [line, {**line, "sample_loss_mask": 0.0}])
    done = rocktok.import_log("nemo-rl", folder, tmp_path / "log")
    assert (done.steps, done.sequences) == ((3,), 1)
    found = rows(tmp_path / "log")
    assert found["position"].tolist() == [0, 2, 3]
    assert found["token_id"].tolist() == [6, 8, 9]
    close(found["teacher_logprob"], [-0.5, -0.75, -1.25])
    close(found["loss"], [-0.5, 0.25, 1.0])
    listed = sequences(tmp_path / "log")
    assert listed["prompt_token_ids"][0].tolist() == [4, 5]
    assert listed["num_tokens"].tolist() == [4]
    # Older versions count from 0.
    for step in (0, 1):
        write_lines(tmp_path / f"old/train_data_step{step}.jsonl", [line])
    old = rocktok.import_log("nemo-rl", tmp_path / "old", tmp_path / "old-log")
    assert old.steps == (0, 1)
    write_lines(folder / "train_data_step4.jsonl", [{**line, "advantages": [0.0]}])
    assert "they must be equally long" in _refused(tmp_path / "other", folder)
