"""The hook of ms-swift, on a stand-in with its signatures, shifts and padding."""

from __future__ import annotations

import copy
import sys
from itertools import chain
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import rocktok
from rocktok.errors import HookError, RocktokWarning
from tests.hooks.other_trainers import (
    END,
    TOKENS,
    Model,
    Tokenizer,
    forget,
    log_softmax,
    mismatches,
    read,
    reverse_kl,
    run_of,
    sequences,
    use_stubs,
)

#: Prompt, completion, and which of its tokens a tool wrote.
TEXTS = [
    ([5, 6, 7], [8, 9, END], []),
    ([5, 6], [10, 11, 12, 13, 14], [2]),
    ([20], [21, 22], []),
]


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch) -> Any:
    use_stubs(monkeypatch, "swift")
    import swift.rlhf_trainers.gkd_trainer as module

    return module


def batch(*texts: Any, source: str = "student", packed: bool = False) -> dict[str, Any]:
    """A micro-batch as ms-swift makes them: padded on the right, or packed into one row."""
    rows, labels, positions = [], [], []
    for prompt, completion, tool in texts:
        rows.append(prompt + completion)
        marks = [-100 if i in tool else t for i, t in enumerate(completion)]
        labels.append([-100] * len(prompt) + marks)
        positions.append(list(range(len(rows[-1]))))
    if packed:
        joined = [[[*chain(*each)]] for each in (rows, labels, positions)]
        ids, label, position = map(torch.tensor, joined)
        inputs = {"input_ids": ids, "labels": label, "position_ids": position}
    else:
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        label = torch.tensor([row + [-100] * (width - len(row)) for row in labels])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        inputs = {"input_ids": ids, "labels": label, "attention_mask": mask}
    return {
        "model_inputs": inputs,
        "teacher_model_inputs": dict(inputs),
        "gkd_batch": SimpleNamespace(data_source=source),
    }


def make(
    swift: Any, log: Path, teacher: Any = None, columns: Any = "default", **options: Any
) -> Any:
    from rocktok.hooks.ms_swift import record

    record(log, every=1, columns=columns, quiet=True)
    return swift.GKDTrainer(Model(1), teacher, tokenizer=Tokenizer(), **options)


def places(texts: Any) -> list[tuple[int, int, int]]:
    """(text, position, token) of each scored token."""
    return [(i, j, t) for i, (_, completion, tool) in enumerate(texts)
            for j, t in enumerate(completion) if j not in tool]  # fmt: skip


def logits_at(model: Model, texts: Any, packed: bool = False) -> Any:
    """(N, V) logits that predicted each scored token."""
    rows, offset = [], 0
    joined = model(torch.tensor([[*chain(*(p + c for p, c, _ in texts))]]))[0]
    for prompt, completion, tool in texts:
        alone = model(torch.tensor([prompt + completion]))[0]
        source = joined[offset:] if packed else alone
        for j in range(len(completion)):
            if j not in tool:
                rows.append(source[len(prompt) + j - 1].detach().double().numpy())
        offset += len(prompt) + len(completion)
    return np.array(rows)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_losses_are_those_of_the_tokens_that_were_generated(
    swift: Any, tmp_path: Path, packed: bool, cut: bool
) -> None:
    teacher = Model(2, hidden=7)
    trainer = make(swift, tmp_path, teacher, padding_free=packed, use_logits_to_keep=cut)
    trainer.train([[batch(*TEXTS, packed=packed)]])
    rows = read(tmp_path, columns=("student_logprob", "teacher_logprob"))
    expected = places(TEXTS)
    assert rows["position"].tolist() == [j for _, j, _ in expected]
    assert rows["token_id"].tolist() == [t for _, _, t in expected]
    p, q = (logits_at(model, TEXTS, packed) for model in (trainer.model, teacher))
    np.testing.assert_allclose(rows["loss"], reverse_kl(p, q), rtol=1e-5)
    tokens = [t for _, _, t in expected]
    for name, z in (("student_logprob", p), ("teacher_logprob", q)):
        got = log_softmax(z)[range(len(tokens)), tokens]
        np.testing.assert_allclose(rows[name], got, rtol=1e-5)
    written = sequences(tmp_path)
    assert [row["prompt_token_ids"] for row in written] == [prompt for prompt, _, _ in TEXTS]
    assert [row["num_tokens"] for row in written] == [3, 5, 2]
    assert [row["finish_reason"] for row in written] == ["stop", "length", "length"]
    run = run_of(tmp_path)
    assert run["loss"]["exactness"] == "exact" and run["loss"]["trained"] is True
    assert run["terminal_ids"] == {"student": [END]} and run["vocab_size"] == TOKENS
    assert rocktok.open(tmp_path).warnings() == []
    assert mismatches(tmp_path) == {}


@pytest.mark.parametrize("widths", [(TOKENS, TOKENS + 8), (TOKENS + 8, TOKENS)])
def test_vocabularies_are_padded_as_the_trainer_pads_them(
    swift: Any, tmp_path: Path, widths: tuple[int, int]
) -> None:
    from rocktok.hooks.ms_swift import record

    record(tmp_path, every=1, quiet=True)
    models = Model(1, widths[0]), Model(2, widths[1])
    trainer = swift.GKDTrainer(*models, tokenizer=Tokenizer())
    (trained,) = trainer.train([[batch(*TEXTS)]])
    p, q = (logits_at(model, TEXTS) for model in models)
    wide = max(widths)
    padded = [np.concatenate([z, other[:, z.shape[1]:]], 1)
              for z, other in ((p, q), (q, p))]  # fmt: skip
    assert padded[0].shape[1] == padded[1].shape[1] == wide
    rows = read(tmp_path)
    np.testing.assert_allclose(rows["loss"], reverse_kl(*padded), rtol=1e-5)
    assert abs(rows["loss"].mean() - trained) < 1e-5
    run = run_of(tmp_path)
    assert run["vocab_size"] == wide
    assert run["tokenizers"]["vocab_width"] == dict(
        zip(("student", "teacher"), widths, strict=True)
    )


def test_the_teacher_may_have_read_another_prompt(swift: Any, tmp_path: Path) -> None:
    teacher = Model(2)
    trainer = make(swift, tmp_path, teacher)
    inputs = batch(*TEXTS)
    privileged = [([30, 31, *prompt], completion, tool) for prompt, completion, tool in TEXTS]
    inputs["teacher_model_inputs"] = batch(*privileged)["model_inputs"]
    trainer.train([[inputs]])
    expected = reverse_kl(logits_at(trainer.model, TEXTS), logits_at(teacher, privileged))
    np.testing.assert_allclose(read(tmp_path)["loss"], expected, rtol=1e-5)


def test_a_local_teacher_is_exact_also_where_top_k_is_trained(swift: Any, tmp_path: Path) -> None:
    teacher = Model(2)
    trainer = make(swift, tmp_path, teacher, gkd_logits_topk=4, temperature=2.0)
    trainer.train([[batch(*TEXTS)]])
    expected = reverse_kl(logits_at(trainer.model, TEXTS) / 2, logits_at(teacher, TEXTS) / 2)
    np.testing.assert_allclose(read(tmp_path)["loss"], expected, rtol=1e-5)
    loss = run_of(tmp_path)["loss"]
    assert (loss["exactness"], loss["trained"], loss["student_temperature"]) == ("exact", False, 2)


def served(inputs: dict[str, Any], teacher: Model, k: int) -> dict[str, Any]:
    """The batch with a served teacher's answers: its k likeliest tokens at each position."""
    logprobs = torch.log_softmax(teacher(inputs["model_inputs"]["input_ids"]), -1).detach()
    top = logprobs.topk(k)
    batch = inputs["gkd_batch"]
    batch.teacher_topk_logprobs, batch.teacher_topk_indices = top.values, top.indices
    return inputs


def test_a_served_teacher_gives_a_lower_bound(swift: Any, tmp_path: Path) -> None:
    teacher = Model(2)
    trainer = make(swift, tmp_path, columns="lenses", gkd_logits_topk=20)
    inputs = served(batch(*TEXTS), teacher, 20)
    trainer.train([[inputs]])
    rows = read(tmp_path, columns=("student_logprob", "overlap", "student_mass", "teacher_mass"))
    z, y = logits_at(trainer.model, TEXTS), logits_at(teacher, TEXTS)
    p, q = np.exp(log_softmax(z)), np.exp(log_softmax(y))
    # What is left for other tokens is a small difference: of the float32 numbers that were served.
    marks = inputs["model_inputs"]["labels"].roll(-1, 1) != -100
    covered = inputs["gkd_batch"].teacher_topk_logprobs[marks].double().exp().sum(-1).numpy()
    for i, loss in enumerate(rows["loss"]):
        top = np.argsort(-q[i])[:20]
        rest = 1 - p[i, top].sum(), 1 - covered[i] + 1e-6
        bound = (p[i, top] * np.log(p[i, top] / q[i, top])).sum() + rest[0] * np.log(
            rest[0] / rest[1]
        )
        assert loss == pytest.approx(bound, rel=1e-4)
        assert loss <= reverse_kl(z[i], y[i]) + 1e-5
        both = set(np.argsort(-q[i])[:16]) & set(np.argsort(-p[i])[:16])
        assert rows["overlap"][i] == pytest.approx(len(both) / 16)
        assert rows["student_mass"][i] == pytest.approx(p[i, list(both)].sum(), rel=1e-4)
        assert rows["teacher_mass"][i] == pytest.approx(q[i, list(both)].sum(), rel=1e-4)
    loss = run_of(tmp_path)["loss"]
    assert (loss["exactness"], loss["trained"]) == ("topk", False)


def test_at_another_temperature_a_served_teacher_gives_a_partial_sum(
    swift: Any, tmp_path: Path
) -> None:
    teacher = Model(2)
    trainer = make(swift, tmp_path, gkd_logits_topk=3, temperature=2.0)
    inputs = served(batch(*TEXTS), teacher, 3)
    # Of one position the teacher said nothing: ms-swift leaves it out.
    inputs["gkd_batch"].teacher_topk_logprobs[0, 2] = -torch.inf
    (trained,) = trainer.train([[inputs]])
    rows = read(tmp_path, columns=("student_entropy",))
    assert rows["position"].tolist() == [j for _, j, _ in places(TEXTS)][1:]
    z, y = logits_at(trainer.model, TEXTS)[1:], logits_at(teacher, TEXTS)[1:]
    top = np.argsort(-y)[:, :3]
    expected = reverse_kl(*(np.take_along_axis(each, top, 1) / 2 for each in (z, y)))
    np.testing.assert_allclose(rows["loss"], expected, rtol=1e-4)
    assert rows["loss"].mean() == pytest.approx(trained, rel=1e-5)
    log_p = log_softmax(z / 2)
    np.testing.assert_allclose(rows["student_entropy"], -(np.exp(log_p) * log_p).sum(-1), rtol=1e-4)
    assert run_of(tmp_path)["loss"]["exactness"] == "truncated"


def test_the_fused_loss_is_scored_from_hidden_states(swift: Any, tmp_path: Path) -> None:
    teacher = Model(2)
    columns = ("head_grad_norm",)
    trainer = make(swift, tmp_path, teacher, columns=columns, use_liger_kernel=True)
    trainer.train([[batch(*TEXTS)]])
    rows = read(tmp_path, columns=columns)
    expected = reverse_kl(logits_at(trainer.model, TEXTS), logits_at(teacher, TEXTS))
    np.testing.assert_allclose(rows["loss"], expected, rtol=1e-4)
    assert (rows["head_grad_norm"] > 0).all()
    assert rows["token_id"].tolist() == [t for _, _, t in places(TEXTS)]


def test_steps_are_recorded_whole_and_of_the_students_texts_alone(
    swift: Any, tmp_path: Path
) -> None:
    from rocktok.hooks.ms_swift import record

    record(tmp_path, every=2, quiet=True)
    trainer = swift.GKDTrainer(Model(1), Model(2), tokenizer=Tokenizer())
    mine, theirs = batch(TEXTS[0]), batch(TEXTS[1], source="dataset")
    steps = [[mine, batch(TEXTS[2])], [mine], [theirs], [mine], [mine]]
    trainer.train([[copy.deepcopy(each) for each in step] for step in steps])
    # Step 2 has no text of the student: step 3 is recorded for it.
    log = rocktok.open(tmp_path)
    assert [(step.step, step.rows) for step in log.steps("rollout")] == [(0, 5), (3, 3), (4, 3)]


def test_a_resumed_training_is_another_attempt(swift: Any, tmp_path: Path) -> None:
    trainer = make(swift, tmp_path, Model(2))
    trainer.train([[batch(TEXTS[0])] for _ in range(3)])
    trainer.train([[batch(TEXTS[0])] for _ in range(2)], start=2)
    steps = [(s.step, s.rows) for s in rocktok.open(tmp_path).steps("rollout")]
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_training_is_the_same_with_and_without(swift: Any, tmp_path: Path) -> None:
    plain = swift.GKDTrainer(Model(1), Model(2), tokenizer=Tokenizer())
    without = plain.train([[batch(*TEXTS)]])
    assert make(swift, tmp_path, Model(2)).train([[batch(*TEXTS)]]) == without


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lmbda": 0}, "texts of the dataset alone"),
        ({"sequence_parallel_size": 2}, "splits each text over 2 ranks"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    swift: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(HookError, match=message):
        make(swift, tmp_path, Model(2), **options)
    assert not list(tmp_path.iterdir())


def test_columns_that_cannot_be_had_are_refused_by_name(swift: Any, tmp_path: Path) -> None:
    with pytest.raises(HookError, match="grad_norm cannot be had, as the teacher's API gives"):
        make(swift, tmp_path, columns=("grad_norm",))


def test_an_unknown_signature_is_an_error_before_training(
    swift: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rocktok.hooks.ms_swift import record

    def changed(self: Any, student_logits: Any, teacher_output: Any, labels: Any, mask: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(swift.GKDTrainer, "_compute_jsd_loss", changed)
    with pytest.raises(HookError, match=r"_compute_jsd_loss of ms-swift .* has the unknown mask"):
        record(tmp_path)
    monkeypatch.delattr(swift.GKDTrainer, "_compute_jsd_loss")
    with pytest.raises(HookError, match=r"has no GKDTrainer._compute_jsd_loss; use ms-swift 4.6"):
        record(tmp_path)


def test_backends_that_split_logits_are_refused(
    swift: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rocktok.hooks.ms_swift import record

    split = "swift.megatron.trainers.gkd_trainer"
    monkeypatch.setitem(sys.modules, split, ModuleType(split))
    with pytest.raises(HookError, match="Megatron and Ray backends split logits"):
        record(tmp_path, quiet=True)
    monkeypatch.delitem(sys.modules, split)
    record(tmp_path, quiet=True)
    # What such a module would import now.
    from swift.rlhf_trainers.gkd_loss import gkd_loss

    with pytest.raises(HookError, match="Megatron and Ray backends split logits"):
        gkd_loss(None, None, None, 1.0, 1.0)


def test_a_second_call_is_refused(swift: Any, tmp_path: Path) -> None:
    from rocktok.hooks.ms_swift import record

    record(tmp_path, quiet=True)
    with pytest.raises(HookError, match="call it once"):
        record(tmp_path, quiet=True)


def test_without_the_trainer_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rocktok.hooks.ms_swift import record

    forget("swift")
    monkeypatch.setitem(sys.modules, "swift", None)
    with pytest.raises(HookError, match=r"install ms-swift 4.6"):
        record(tmp_path)


def test_what_goes_wrong_drops_the_step_and_not_the_training(swift: Any, tmp_path: Path) -> None:
    trainer = make(swift, tmp_path, Model(2))
    outside = batch(([5, 6], [7, TOKENS + 3, 8], []))
    with pytest.warns(RocktokWarning, match="outside the vocabulary"):
        losses = trainer.train([[outside], [batch(TEXTS[0])]])
    assert len(losses) == 2
    log = rocktok.open(tmp_path)
    assert [(step.step, step.rows) for step in log.steps("rollout")] == [(1, 3)]


def test_a_loss_that_is_not_the_trainers_is_counted(swift: Any, tmp_path: Path) -> None:
    trainer = make(swift, tmp_path, Model(2))
    original = type(trainer)._compute_jsd_loss.__wrapped__
    recording = trainer._rocktok_recording
    with pytest.warns(RocktokWarning, match="differ from the trained ones"):
        trainer._call("on_train_begin")
        inputs = batch(*TEXTS)
        with recording.scoring(inputs):
            student = trainer.model(inputs["model_inputs"]["input_ids"])
            teacher = swift.TeacherOutput(
                trainer.teacher_model(inputs["model_inputs"]["input_ids"])
            )
            teacher.labels = inputs["model_inputs"]["labels"]
            result = original(trainer, student, teacher, inputs["model_inputs"]["labels"])
            recording.observe_logits(student, teacher, inputs["model_inputs"]["labels"], 2 * result)
        recording.end_step(0)
        recording.end()
    assert mismatches(tmp_path) == {"0": 1}
