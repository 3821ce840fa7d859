"""Weights in the losses of TRL's trainers: against the definition, and bit for bit where nothing
may change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.trainer import distillation_trainer
from trl.trainer.distillation_trainer import DistillationTrainer

import rocktok
from rocktok.errors import HookError, RocktokWarning
from rocktok.hooks import Recorder, TokenWeights
from rocktok.hooks.trl import attach, attach_weights
from rocktok.hooks.trl.weighted_loss import weighted_divergence, weighted_jsd
from tests.paths import ROOT
from tests.trl_models import VOCAB_SIZE, make_model, make_tokenizer, make_trainer, read_table

#: Every other type.
HALF = range(0, VOCAB_SIZE, 2)


def divergence(student: torch.Tensor, teacher: torch.Tensor, beta: float) -> torch.Tensor:
    """The generalized Jensen-Shannon divergence at each position, as the paper of GKD has it."""
    p, q = student.log_softmax(-1), teacher.log_softmax(-1)
    if beta == 0:
        return (q.exp() * (q - p)).sum(-1)
    if beta == 1:
        return (p.exp() * (p - q)).sum(-1)
    m = torch.log((1 - beta) * p.exp() + beta * q.exp())
    return (beta * q.exp() * (q - m) + (1 - beta) * p.exp() * (p - m)).sum(-1)


def example(items: int | None, beta: float) -> dict[str, Any]:
    """Arguments of TRL's loss function, in float64, two texts of five tokens, one of them short."""
    draw = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    return {
        "student_hidden_states": normal(2, 5, 6).requires_grad_(),
        "teacher_hidden_states": normal(2, 5, 8),
        "student_lm_head_weight": normal(11, 6).requires_grad_(),
        "teacher_lm_head_weight": normal(11, 8),
        "completion_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "beta": beta,
        "num_items_in_batch": items,
        "student_lm_head_bias": normal(11).requires_grad_(),
        "temperature": 1.7,
    }


SELECTED = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 1, 0]]) == 1
LEARNED = ("student_hidden_states", "student_lm_head_weight", "student_lm_head_bias")


def loss_by_definition(arguments: dict[str, Any], weight: float) -> torch.Tensor:
    student = arguments["student_hidden_states"] @ arguments["student_lm_head_weight"].T
    student = student + arguments["student_lm_head_bias"]
    teacher = arguments["teacher_hidden_states"] @ arguments["teacher_lm_head_weight"].T
    mask = arguments["completion_mask"]
    loss = divergence(student / 1.7, teacher / 1.7, arguments["beta"])
    weights = torch.where(SELECTED, weight, 1.0)
    return (weights * mask * loss).sum() / (arguments["num_items_in_batch"] or mask.sum())


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
@pytest.mark.parametrize(("items", "beta"), [(None, 1.0), (20, 1.0), (7, 0.0), (20, 0.4)])
def test_loss_and_gradient_are_the_definitions(
    weight: float, items: int | None, beta: float
) -> None:
    original = distillation_trainer._chunked_divergence_loss
    arguments = example(items, beta)
    loss, entropy, count = weighted_divergence(original, arguments, SELECTED, weight)
    expected = loss_by_definition(arguments, weight)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    learned = [arguments[name] for name in LEARNED]
    found = torch.autograd.grad(loss, learned)
    for one, other in zip(found, torch.autograd.grad(expected, learned), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    if weight == 0:
        assert (found[0][SELECTED] == 0).all(), "a frozen position has a gradient"
    assert count.item() == (8 if weight else 5)
    assert entropy.item() > 0


def test_frozen_rows_are_dropped_before_the_heads() -> None:
    seen = []

    def spy(**arguments: Any) -> Any:
        seen.append(arguments["student_hidden_states"].shape)
        return distillation_trainer._chunked_divergence_loss(**arguments)

    weighted_divergence(spy, example(None, 1.0), SELECTED, 0.0)
    weighted_divergence(spy, example(None, 1.0), SELECTED, 0.5)
    assert seen == [(1, 5, 6), (1, 5, 6), (1, 3, 6)]


def test_a_batch_of_frozen_tokens_teaches_nothing() -> None:
    arguments = example(None, 1.0)
    loss, entropy, count = weighted_divergence(
        distillation_trainer._chunked_divergence_loss,
        arguments,
        torch.ones_like(SELECTED),
        0.0,
    )
    assert (loss.item(), entropy.item(), count.item()) == (0, 0, 0)
    loss.backward()
    assert all((arguments[name].grad == 0).all() for name in LEARNED)


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize(("items", "beta"), [(None, 0.5), (12, 1.0)])
def test_gkd_loss_and_gradient_are_the_definitions(
    weight: float, items: int | None, beta: float
) -> None:
    draw = torch.Generator().manual_seed(4)
    student = torch.randn(2, 5, 11, generator=draw, requires_grad=True)
    teacher = torch.randn(2, 5, 11, generator=draw)
    labels = torch.tensor([[-100, 3, 4, 5, 6], [-100, -100, 2, 3, 4]])
    arguments = {
        "student_logits": student,
        "teacher_logits": teacher,
        "labels": labels,
        "beta": beta,
        "num_items_in_batch": items,
    }
    loss = weighted_jsd(GKDTrainer.generalized_jsd_loss, arguments, SELECTED, weight)
    mask = labels != -100
    weights = torch.where(SELECTED, weight, 1.0) * mask
    expected = (weights * divergence(student, teacher, beta)).sum() / (items or mask.sum())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    one, other = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in (loss, expected))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert weight or (one[SELECTED] == 0).all()


# --- in a training -----------------------------------------------------------------------------


def trained(folder: Path, weights: TokenWeights | None, **options: Any) -> Any:
    trainer = make_trainer(folder, **{"max_steps": 3, "logging_steps": 1, **options})
    if weights is None:
        trainer.train()
        return trainer
    with attach_weights(trainer, weights):
        trainer.train()
    return trainer


def logged(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def same_parameters(one: Any, other: Any) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_weight_one_is_training_without_weights_bit_for_bit(tmp_path: Path) -> None:
    alone, weighted = trained(tmp_path, None), trained(tmp_path, TokenWeights(HALF, 1.0))
    assert same_parameters(alone, weighted)
    for name in ("loss", "entropy", "grad_norm"):
        assert logged(alone, name) == logged(weighted, name)
    assert not same_parameters(alone, trained(tmp_path, TokenWeights(HALF, 0.5)))


def test_a_weight_on_every_token_scales_the_training_loss_and_no_other(tmp_path: Path) -> None:
    """Nor does it change the denominator, with accumulation either."""
    options: dict[str, Any] = {
        "learning_rate": 0.0,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 2,
    }
    alone = trained(tmp_path, None, **options)
    half = trained(tmp_path, TokenWeights(range(VOCAB_SIZE), 0.5), **options)
    assert logged(half, "loss") == pytest.approx([x / 2 for x in logged(alone, "loss")], rel=1e-5)
    assert logged(half, "eval_loss") == logged(alone, "eval_loss")
    assert logged(half, "entropy") == pytest.approx(logged(alone, "entropy"), rel=1e-5)


def test_the_trained_loss_is_the_weighted_mean_of_the_recorded_ones(tmp_path: Path) -> None:
    """Of losses that are recorded without weights, by the tokens that they predict."""
    log, weights = tmp_path / "log", TokenWeights(HALF, 0.25)
    trainer = make_trainer(tmp_path, max_steps=3, logging_steps=1)
    recorder = Recorder(log, every=1, fixed_sequences=4, fixed_every=2, quiet=True)
    with attach(trainer, recorder, weights=weights):
        trainer.train()
    rows = read_table(log)
    assert not rocktok.info(log).mismatches
    for step, loss in enumerate(logged(trainer, "loss")):
        mine = rows["step"] == step
        weight = np.where(rows["token_id"][mine] % 2 == 0, 0.25, 1.0)
        assert loss == pytest.approx((weight * rows["loss"][mine]).mean(), rel=1e-4)
    # The first step's text and losses are those of a run without weights, bit for bit.
    other = make_trainer(tmp_path, max_steps=1)
    with attach(other, Recorder(tmp_path / "other", every=1, fixed_sequences=4, quiet=True)):
        other.train()
    first = read_table(tmp_path / "other")
    for name in ("token_id", "loss"):
        assert np.array_equal(rows[name][rows["step"] == 0], first[name])
    assert np.array_equal(
        read_table(log, "fixed")["loss"][
            : len(read_table(tmp_path / "other", "fixed")["loss"]) // 2
        ],
        read_table(tmp_path / "other", "fixed")["loss"][
            : len(read_table(tmp_path / "other", "fixed")["loss"]) // 2
        ],
    )
    says_so(log, weights)


def says_so(log: Path, weights: TokenWeights) -> None:
    """What the log says of its weights."""
    facts = rocktok.open(log).facts.weights
    assert facts == weights.facts()
    (told,) = rocktok.info(log).weights
    assert told["sha256"] == weights.sha256
    assert (told["attempt"], told["from_step"], told["found_at"]) == (0, 0, None)
    assert told["token_ids"] == weights.token_ids
    assert "160 token types (given) weighted 0.25 in the trained loss from step 0 on" in repr(
        rocktok.info(log)
    )


def test_weights_that_are_wrong_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorder compares what was trained with what the weights ask for."""
    from rocktok.hooks.trl import weighted_loss

    whole = weighted_loss.weighted_divergence
    monkeypatch.setattr(
        weighted_loss,
        "weighted_divergence",
        lambda original, arguments, selected, weight: whole(
            original, arguments, selected.roll(1, 1), weight
        ),
    )
    trainer = make_trainer(tmp_path, max_steps=1)
    recorder = Recorder(tmp_path / "log", every=1, fixed_sequences=0, quiet=True)
    with (
        pytest.warns(RocktokWarning, match="the recorded losses differ from the trained ones"),
        attach(trainer, recorder, weights=TokenWeights(HALF, 0.25)),
    ):
        trainer.train()
    assert rocktok.info(tmp_path / "log").mismatches == 1


def test_frozen_tokens_leave_training_going(tmp_path: Path) -> None:
    start = make_model(1)
    frozen = trained(tmp_path, TokenWeights(range(VOCAB_SIZE), 0.0), weight_decay=0.0)
    assert logged(frozen, "loss") == [0, 0, 0]
    assert logged(frozen, "entropy") == [0, 0, 0]
    for one, other in zip(start.parameters(), frozen.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_is_attached_is_taken_off_again(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)

    def state() -> list[Any]:
        return [
            distillation_trainer._chunked_divergence_loss,
            vars(trainer).get("_compute_loss"),
            list(trainer.callback_handler.callbacks),
        ]

    before = state()
    with attach_weights(trainer, TokenWeights([1], 0.0)) as weights:
        assert weights.token_ids == (1,)
        with pytest.raises(HookError, match="this trainer has weights already"):
            attach_weights(trainer, weights)
        with pytest.raises(HookError, match=r"give them here: attach\(trainer, recorder, weights="):
            attach(trainer, Recorder(tmp_path / "log"))
        trainer.train()
    assert state() == before
    with (
        attach(trainer, Recorder(tmp_path / "log", quiet=True)),
        pytest.raises(HookError, match=r"has a recorder; give it the weights: attach\(trainer"),
    ):
        attach_weights(trainer, TokenWeights([1], 0.0))


class Otherwise(DistillationTrainer):  # type: ignore[misc]
    """Computes its loss in another way."""

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        return sum(p.sum() for p in model.parameters()) * 0.0


def test_a_training_that_was_not_weighted_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(RocktokWarning, match="3 steps were trained, and no loss was weighted"):
        trained(tmp_path, TokenWeights([1], 0.5), trainer_class=Otherwise)


def test_what_cannot_be_weighted_is_refused(tmp_path: Path) -> None:
    class GOLDTrainer:
        pass

    with pytest.raises(HookError, match=r"GOLDTrainer is none of the trainers of trl 1\.16\.0"):
        attach_weights(GOLDTrainer(), TokenWeights([1], 0.0))
    trainer = make_trainer(tmp_path)
    with pytest.raises(HookError, match="token id 320 is outside the vocabulary of 320"):
        attach_weights(trainer, TokenWeights([320], 0.0))
    with pytest.raises(HookError, match=r"token 0 is 'a' in the weights file and '<\|end"):
        attach_weights(trainer, TokenWeights([0], 0.0, token_texts=["a"]))
    with pytest.raises(HookError, match="token id 320 is outside the vocabulary of 320"):
        attach(trainer, Recorder(tmp_path / "log"), weights=TokenWeights([320], 0.0))


def test_the_example_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block as it stands, with a trainer of tiny models."""
    text = (ROOT / "docs/recording.md").read_text()
    block = text.partition("<!-- weights -->")[2].partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "recording.md", "exec"), {"trainer": make_trainer(tmp_path, max_steps=1)})
    (told,) = rocktok.info("runs/weighted").weights
    assert (told["token_ids"], told["weight"]) == ((271, 18), 0)


# --- GKD ---------------------------------------------------------------------------------------


def gkd(folder: Path, weights: TokenWeights | None, kind: type = GKDTrainer, **options: Any) -> Any:
    torch.set_num_threads(1)
    chat = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer = make_tokenizer()
    tokenizer.chat_template = chat
    messages = [
        [{"role": "user", "content": f"What is {a} plus 2?"}, {"role": "assistant", "content": "9"}]
        for a in range(8)
    ]
    settings: dict[str, Any] = {
        "output_dir": str(folder / "gkd"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "max_new_tokens": 8,
        "lmbda": 1.0,
        "beta": 1.0,
        "seed": 7,
        "dataloader_pin_memory": False,
        **options,
    }
    trainer = kind(
        model=make_model(1),
        teacher_model=make_model(2, hidden=48),
        args=GKDConfig(**settings),
        train_dataset=Dataset.from_dict({"messages": messages}),
        processing_class=tokenizer,
    )
    if weights is None:
        trainer.train()
        return trainer
    with attach_weights(trainer, weights):
        trainer.train()
    return trainer


def test_gkd_trains_on_weighted_losses(tmp_path: Path) -> None:
    alone = gkd(tmp_path, None)
    assert same_parameters(alone, gkd(tmp_path, TokenWeights(HALF, 1.0)))
    half = gkd(tmp_path, TokenWeights(range(VOCAB_SIZE), 0.5))
    # The first step is that of the same student.
    assert logged(half, "loss")[0] == pytest.approx(logged(alone, "loss")[0] / 2, rel=1e-4)
    assert "generalized_jsd_loss" not in vars(half)


def test_a_gkd_with_a_loss_of_its_own_is_refused(tmp_path: Path) -> None:
    class Mine(GKDTrainer):  # type: ignore[misc]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs)

    with pytest.raises(HookError, match="Mine overrides compute_loss, so that its loss cannot be"):
        gkd(tmp_path, TokenWeights([1], 0.0), kind=Mine)
