"""slime's dumps: rollouts as sampled, and what training computed of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rocktok
from rocktok.errors import LogError
from rocktok.hooks.rollouts import prompt_identity
from tests.importers.files import (
    Malicious,
    changed_columns,
    damage,
    slime_ranks,
    slime_rollout,
    slime_sample,
    slime_train,
)
from tests.importers.reading import close, rows, sequences

PROMPT = [1, 2, 3]


def samples(seed: int, n: int = 4) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [slime_sample(rng, PROMPT, 5 + place) for place in range(n)]


def test_rollout_dumps(tmp_path: Path) -> None:
    by_step = {step: samples(step) for step in (0, 1, 10)}
    for step, made in by_step.items():
        slime_rollout(tmp_path / f"rollout_data/{step}.pt", step, made)
    slime_rollout(tmp_path / "rollout_data/eval_0.pt", 0, samples(9))
    done = rocktok.import_log("slime", tmp_path / "rollout_data", tmp_path / "log")
    assert (done.steps, done.exactness) == ((0, 1, 10), "sampled")
    assert "the student's log-probabilities are the inference engine's" in done.notes
    found = rows(tmp_path / "log")
    for step, made in by_step.items():
        part = found[found["step"] == step]
        student = np.concatenate([s["rollout_log_probs"] for s in made])
        teacher = np.concatenate([s["teacher_log_probs"] for s in made])
        close(part["student_logprob"], student)
        close(part["teacher_logprob"], teacher)
        close(part["loss"], student - teacher)
        assert part["token_id"].tolist() == [t for s in made for t in s["tokens"][3:]]
    listed = sequences(tmp_path / "log")
    assert set(listed["prompt_id"]) == {prompt_identity(PROMPT)}
    assert listed["prompt_token_ids"][0].tolist() == PROMPT
    assert listed["finish_reason"].unique().tolist() == ["stop"]
    assert listed["correct"].all()


def test_masked_tokens_leave_gaps(tmp_path: Path) -> None:
    made = samples(0, 3)
    made[0]["loss_mask"] = [1, 0, 0, 1, 1]
    made[0] |= {"status": "truncated", "reward": 0.3}
    made[1]["status"] = "aborted"
    made[2]["loss_mask"] = [0] * 7
    slime_rollout(tmp_path / "0.pt", 0, made)
    done = rocktok.import_log("slime", tmp_path / "0.pt", tmp_path / "log")
    assert rows(tmp_path / "log")["position"].tolist() == [0, 3, 4]
    assert sequences(tmp_path / "log")["num_tokens"].tolist() == [5]
    assert sequences(tmp_path / "log")["finish_reason"].tolist() == ["length"]
    assert "correct" not in sequences(tmp_path / "log")
    assert any("2 samples left out" in note for note in done.notes)


@pytest.mark.parametrize("both", [True, False])
def test_train_dumps_give_the_trainers_numbers(tmp_path: Path, both: bool) -> None:
    made = {step: samples(step) for step in (3, 4)}
    for step, one in made.items():
        slime_train(tmp_path / f"train_data/{step}_0.pt", step, one, shift=0.125)
        if both:
            slime_rollout(tmp_path / f"rollout_data/{step}.pt", step, one)
    done = rocktok.import_log("slime", tmp_path, tmp_path / "log")
    assert done.steps == (3, 4)
    found = rows(tmp_path / "log")
    student = np.concatenate([s["rollout_log_probs"] for one in made.values() for s in one])
    close(found["student_logprob"], student - 0.125)
    close(found["student_entropy"], np.full(len(found), 0.5))
    assert ("finish_reason" in sequences(tmp_path / "log")) == both


def _refused(tmp_path: Path, *paths: Path) -> str:
    with pytest.raises(LogError) as error:
        rocktok.import_log("slime", paths, tmp_path / "log")
    assert not (tmp_path / "log").exists()
    return str(error.value)


def test_what_is_no_dump(tmp_path: Path) -> None:
    torch.save({"samples": []}, tmp_path / "0.pt")
    assert "has no samples; it is no dump of slime" in _refused(tmp_path, tmp_path / "0.pt")
    torch.save({"samples": [{}]}, tmp_path / "0.pt")
    assert "has no rollout_id" in _refused(tmp_path, tmp_path / "0.pt")
    made = samples(0)
    made[1]["teacher_log_probs"] = None
    slime_rollout(tmp_path / "0.pt", 0, made)
    assert "sample 1: has no teacher_log_probs" in _refused(tmp_path, tmp_path / "0.pt")
    made = samples(0)
    made[1]["teacher_log_probs"] = made[1]["teacher_log_probs"][:-1]
    slime_rollout(tmp_path / "0.pt", 0, made)
    assert "teacher_log_probs has 5 values; they must be equally long" in _refused(
        tmp_path, tmp_path / "0.pt"
    )
    made = samples(0)
    made[1]["rollout_log_probs"][2] = None
    slime_rollout(tmp_path / "0.pt", 0, made)
    assert "sample 1: token 2: the student's log-probability is nan" in _refused(
        tmp_path, tmp_path / "0.pt"
    )


def test_code_in_metadata_is_refused(tmp_path: Path) -> None:
    made = samples(0)
    made[0]["metadata"] = {"x": Malicious(tmp_path / "made")}
    slime_rollout(tmp_path / "0.pt", 0, made)
    assert "0.pt: holds posix.system, which could run code" in _refused(tmp_path, tmp_path / "0.pt")
    assert not (tmp_path / "made").exists()


def test_files_of_two_runs(tmp_path: Path) -> None:
    one = slime_rollout(tmp_path / "one/rollout/5.pt", 5, samples(0))
    two = slime_rollout(tmp_path / "two/rollout/5.pt", 5, samples(1))
    assert f"{two}: is of rollout 5, and so is {one}: files of two runs" in _refused(
        tmp_path, one, two
    )
    wrong = slime_rollout(tmp_path / "one/rollout/6.pt", 8, samples(0))
    assert f"{wrong}: is of rollout 8, its name says 6" in _refused(tmp_path, one, wrong)
    wrong.unlink()
    slime_train(tmp_path / "one/train/5_0.pt", 5, samples(3), 0.0)
    assert "has other tokens than" in _refused(tmp_path, tmp_path / "one")


def test_names_are_the_users(tmp_path: Path) -> None:
    for step in (3, 12):
        slime_rollout(tmp_path / f"run2_{step}.pt", step, samples(step))
    assert rocktok.import_log("slime", tmp_path, tmp_path / "log").steps == (3, 12)
    other = tmp_path / "other"
    for name, step in (("a", 5), ("b", 4)):
        slime_rollout(other / f"{name}.pt", step, samples(step))
    assert rocktok.import_log("slime", other, tmp_path / "log2").steps == (4, 5)


def test_a_step_without_its_train_dump(tmp_path: Path) -> None:
    for step in (0, 1, 2):
        slime_rollout(tmp_path / f"rollout/{step}.pt", step, samples(step))
    slime_train(tmp_path / "train/0_0.pt", 0, samples(0), 0.0)
    assert "rollout 1 has no train dump, others have" in _refused(tmp_path, tmp_path)
    slime_train(tmp_path / "train/1_0.pt", 1, samples(1), 0.0)
    done = rocktok.import_log("slime", tmp_path, tmp_path / "log")
    assert done.steps == (0, 1)
    assert any("rollout 2 has no train dump, as in a run that was" in note for note in done.notes)


def test_a_last_dump_that_is_cut(tmp_path: Path) -> None:
    files = [slime_rollout(tmp_path / f"{s}.pt", s, samples(s, 40)) for s in (0, 1, 2)]
    damage(files[2])
    done = rocktok.import_log("slime", files, tmp_path / "log")
    assert done.steps == (0, 1)
    assert any(str(files[2]) in note for note in done.notes)


# -- train dumps of each rank, as before August 2026 ------------------------------------------


def numbered(seed: int, n: int = 5) -> list[dict[str, Any]]:
    return [{**one, "index": 7 + place} for place, one in enumerate(samples(seed, n))]


@pytest.mark.parametrize("both", [True, False])
def test_dumps_of_ranks(tmp_path: Path, both: bool) -> None:
    made = {step: numbered(step) for step in (3, 12)}
    for step, one in made.items():
        slime_ranks(tmp_path / "train_data", step, one, shift=0.125)
        if both:
            # Rollouts that training has not seen have no rows.
            slime_rollout(tmp_path / f"rollout_data/{step}.pt", step, [*samples(99, 1), *one])
    done = rocktok.import_log("slime", tmp_path, tmp_path / "log")
    assert done.steps == (3, 12)
    assert "the student's log-probabilities are the trainer's" in done.notes
    found = rows(tmp_path / "log")
    student = np.concatenate([s["rollout_log_probs"] for one in made.values() for s in one])
    teacher = np.concatenate([s["teacher_log_probs"] for one in made.values() for s in one])
    close(found["student_logprob"], student - 0.125)
    close(found["loss"], student - 0.125 - teacher)
    tokens = [t for one in made.values() for s in one for t in s["tokens"][3:]]
    assert found["token_id"].tolist() == tokens
    listed = sequences(tmp_path / "log")
    assert listed["finish_reason"].unique().tolist() == ["stop"]
    assert listed["correct"].all()  # not the normalized rewards, which are 0


def test_ranks_that_repeat_each_other(tmp_path: Path) -> None:
    """Tensor parallelism writes samples twice; earlier pipeline stages lack what is computed."""
    made = numbered(0, 4)
    first, second = slime_ranks(tmp_path, 0, made, 0.0)
    for rank, path in ((2, first), (3, second)):
        content = torch.load(path, weights_only=True)
        torch.save({**content, "rank": rank}, tmp_path / f"0_{rank}.pt")
    for path in (first, second):
        changed_columns(path, log_probs=None)
    done = rocktok.import_log("slime", tmp_path, tmp_path / "log")
    assert done.sequences == 4
    torch.save(
        {**torch.load(tmp_path / "0_2.pt", weights_only=True), "rank": 4}, tmp_path / "0_4.pt"
    )
    assert rocktok.import_log("slime", tmp_path, tmp_path / "two").sequences == 4


def test_parts_of_texts_are_refused(tmp_path: Path) -> None:
    made = numbered(0, 2)
    (path,) = slime_ranks(tmp_path, 0, made, 0.0, ranks=1)
    halves = [torch.tensor(one["rollout_log_probs"])[:3] for one in made]
    changed_columns(path, log_probs=halves)
    assert "log_probs has 3 values for 5 tokens: the part of one rank under" in _refused(
        tmp_path, tmp_path
    )


def test_ranks_of_two_runs_and_missing_ones(tmp_path: Path) -> None:
    for step in (0, 1, 2):
        files = slime_ranks(tmp_path, step, numbered(step), 0.0)
    (tmp_path / "1_1.pt").rename(tmp_path / "away")
    assert "rollout 1 has train dumps of 1 rank, rollout 0 of 2" in _refused(tmp_path, tmp_path)
    (tmp_path / "away").rename(tmp_path / "1_1.pt")
    content = torch.load(files[0], weights_only=True)
    torch.save({**content, "rank": 1}, files[0])
    assert "2_1.pt: is of rollout 2 and rank 1, and so is" in _refused(tmp_path, tmp_path)
    files[0].unlink()
    done = rocktok.import_log("slime", tmp_path, tmp_path / "log")
    assert done.steps == (0, 1)
    assert any("rollout 2 has train dumps of 1 of 2 ranks" in note for note in done.notes)


def test_what_is_no_dump_of_a_rank(tmp_path: Path) -> None:
    (path,) = slime_ranks(tmp_path, 0, numbered(0), 0.0, ranks=1)
    content = torch.load(path, weights_only=True)
    changed_columns(path, response_lengths=None)
    assert "its rollout_data has no response_lengths" in _refused(tmp_path, path)
    torch.save(content, path)
    changed_columns(path, loss_masks=content["rollout_data"]["loss_masks"][:2])
    assert "loss_masks has 2 values for 5 samples" in _refused(tmp_path, path)
    torch.save({**content, "rank": None}, path)
    assert "has no rank" in _refused(tmp_path, path)
    torch.save(content, path)
    changed_columns(path, tokens=["a"] * 5)
    assert "0_0.pt" in _refused(tmp_path, path)
    slime_rollout(tmp_path / "rollout/0.pt", 0, numbered(4))
    torch.save(content, path)
    assert "sample 0 has other tokens than" in _refused(tmp_path, path, tmp_path / "rollout")


def test_normalized_rewards_are_no_answers(tmp_path: Path) -> None:
    content = torch.load(slime_train(tmp_path / "0_0.pt", 0, samples(0), 0.0), weights_only=True)
    for one in content["samples"]:
        one["rewards"] = 0.0
    torch.save(content, tmp_path / "0_0.pt")
    rocktok.import_log("slime", tmp_path, tmp_path / "log")
    assert "correct" not in sequences(tmp_path / "log")
