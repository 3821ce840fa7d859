"""Weights in the losses of GOLD, SDFT and SDPO: the definition's gradient, and nothing at λ = 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl.experimental.sdft import sdft_trainer
from trl.experimental.sdpo import sdpo_trainer

import rocktok
from rocktok.errors import HookError, RocktokWarning
from rocktok.hooks import Recorder, TokenWeights
from rocktok.hooks.trl import attach, attach_weights
from tests.hooks.test_trl_weights import HALF, divergence, logged, same_parameters
from tests.trl_family import make_gold, make_iw_opd, make_sdft, make_sdpo
from tests.trl_models import VOCAB_SIZE, make_model, read_sequences, read_table

MAKE = {"gold": make_gold, "iw_opd": make_iw_opd, "sdft": make_sdft, "sdpo": make_sdpo}
#: What one of them shows, the others show again.
ONE_OF_ALL = [
    name if name == "gold" else pytest.param(name, marks=[pytest.mark.long, pytest.mark.exhaustive])
    for name in sorted(MAKE)
]


def trained(folder: Path, name: str, weights: TokenWeights | None, **options: Any) -> Any:
    trainer = MAKE[name](folder, **options)
    if weights is None:
        trainer.train()
        return trainer
    with attach_weights(trainer, weights):
        trainer.train()
    return trainer


@pytest.mark.parametrize("name", ONE_OF_ALL)
def test_weight_one_is_training_without_weights_bit_for_bit(tmp_path: Path, name: str) -> None:
    alone = trained(tmp_path / "alone", name, None)
    one = trained(tmp_path / "one", name, TokenWeights(HALF, 1.0))
    assert same_parameters(alone, one)
    for key in ("loss", "grad_norm"):
        assert logged(alone, key) == logged(one, key)
    other = trained(tmp_path / "half", name, TokenWeights(HALF, 0.5))
    assert not same_parameters(alone, other)


@pytest.mark.parametrize("name", ONE_OF_ALL)
def test_weight_zero_on_every_token_leaves_the_student_as_it_is(tmp_path: Path, name: str) -> None:
    weights = TokenWeights(range(VOCAB_SIZE), 0.0)
    frozen = trained(tmp_path, name, weights, weight_decay=0.0)
    assert logged(frozen, "loss") == [0, 0, 0]
    for before, after in zip(make_model(1).parameters(), frozen.model.parameters(), strict=True):
        assert torch.equal(before, after)


def logits_of(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(3, 5, 11, generator=draw) for _ in range(2))
    return student.requires_grad_(), teacher


IDS = torch.tensor([[2, 3, 4, 5, 6], [7, 2, 9, 10, 0], [2, 2, 1, 4, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])


@pytest.mark.parametrize("mode", ["full_logits", "topk_logits", "sampled_token"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("name", ["sdft", "sdpo"])
def test_the_gradient_is_the_definitions(
    tmp_path: Path, name: str, weight: float, mode: str
) -> None:
    """Of the trainer's own reduction: means of texts, whose numbers of tokens stay."""
    options = {"distillation_mode": mode, "distillation_alpha": 1.0}
    options |= {"distillation_topk": 4, "distillation_add_tail": True} if mode[0] == "t" else {}
    trainer = MAKE[name](tmp_path, **options)
    module = {"sdft": sdft_trainer, "sdpo": sdpo_trainer}[name]
    student, teacher = logits_of(5)
    logits = sdft_trainer.DistillationLogits(IDS, MASK, student, teacher)

    def loss() -> torch.Tensor:
        found: torch.Tensor = trainer._compute_self_distillation_loss(trainer.model, {}, logits)
        return found

    trainer.model.train()
    plain = torch.autograd.grad(loss(), student)[0]
    attachment = attach_weights(trainer, TokenWeights([2, 4], weight))
    attachment._wrapping.wrap()
    try:
        weighted = loss()
        (mine,) = torch.autograd.grad(weighted, student)
    finally:
        attachment.detach()
    per_token = _per_token(module, mode, student, teacher)
    selected = (torch.isin(IDS, torch.tensor([2, 4]))) & (MASK != 0)
    weights = torch.where(selected, weight, 1.0) * MASK
    expected = ((weights * per_token).sum(-1) / MASK.sum(-1)).mean()
    (theirs,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(weighted, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)
    # A position has its own gradient alone: the others' are not touched by the weights.
    assert torch.equal(mine[~selected], plain[~selected])
    if weight == 0:
        assert (mine[selected] == 0).all(), "a frozen position has a gradient"


LABELS = IDS.masked_fill(MASK == 0, -100)


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("rollout", [False, True])
@pytest.mark.parametrize("items", [None, 40])
def test_iw_opds_own_weights_stay_as_they_are(
    tmp_path: Path, weight: float, rollout: bool, items: int | None
) -> None:
    """The loss is Σ λ·term over the terms of the whole text, none of which the weights change."""
    trainer = make_iw_opd(tmp_path)
    student, teacher = logits_of(5)
    teacher_logp = teacher.log_softmax(-1).gather(-1, IDS[..., None])[..., 0]
    sampled = teacher_logp.roll(1, 0) if rollout else None

    def loss() -> torch.Tensor:
        found: torch.Tensor = trainer._compute_iw_opd_loss(
            student, IDS, LABELS, teacher_logp, rollout_logprobs=sampled, num_items_in_batch=items
        )
        return found

    trainer.model.train()
    plain = torch.autograd.grad(loss(), student)[0]
    attachment = attach_weights(trainer, TokenWeights([2, 4], weight))
    attachment._wrapping.wrap()
    try:
        weighted = loss()
        (mine,) = torch.autograd.grad(weighted, student)
    finally:
        attachment.detach()
    p = (student / trainer.temperature).log_softmax(-1).gather(-1, IDS[..., None])[..., 0]
    terms = []
    for text in range(3):
        a = (teacher_logp[text] - (p if sampled is None else sampled)[text]).detach() * MASK[text]
        gone, all_ = 0.0, max(float(a.abs().sum()), trainer.iw_opd_epsilon)
        for at in range(5):
            w = 1 + trainer.iw_opd_gamma * (1 - gone / all_)
            gone += abs(float(a[at]))
            scale = weight if int(IDS[text, at]) in (2, 4) else 1.0
            terms.append(-p[text, at] * w * a[at] * scale)
    expected = torch.stack(terms).sum() / (int(MASK.sum()) if items is None else items)
    (theirs,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(weighted, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)
    selected = (torch.isin(IDS, torch.tensor([2, 4]))) & (MASK != 0)
    assert torch.equal(mine[~selected], plain[~selected])
    if weight == 0:
        assert (mine[selected] == 0).all(), "a frozen position has a gradient"


@pytest.mark.parametrize("top_k", [0, 1, 4])
def test_iw_opds_other_objective(tmp_path: Path, top_k: int) -> None:
    options = {"distillation_objective": "jsd", "beta": 1.0, "loss_top_k": top_k}
    plain = trained_iw_opd(tmp_path / "plain", None, options)
    one = trained_iw_opd(tmp_path / "one", 1.0, options)
    assert same_parameters(plain, one)
    half = trained_iw_opd(tmp_path / "half", 0.5, options)
    none = trained_iw_opd(tmp_path / "none", 0.0, options)
    first = [logged(trainer, "loss")[0] for trainer in (plain, half, none)]
    assert first[1] == pytest.approx((first[0] + first[2]) / 2, rel=1e-4)
    assert first[2] < first[0]


def trained_iw_opd(folder: Path, weight: float | None, options: dict[str, Any]) -> Any:
    weights = None if weight is None else TokenWeights(HALF, weight)
    return trained(folder, "iw_opd", weights, max_steps=1, **options)


def _per_token(module: Any, mode: str, student: torch.Tensor, teacher: torch.Tensor) -> Any:
    """The loss of each token, from the definition where that is short."""
    if mode == "full_logits":
        return divergence(student, teacher, 1.0)
    if mode == "topk_logits":
        return module.compute_topk_self_distillation_loss(
            student,
            teacher,
            distillation_topk=4,
            distillation_alpha=1.0,
            distillation_add_tail=True,
        )
    p, q = (x.log_softmax(-1).gather(-1, IDS[..., None])[..., 0] for x in (student, teacher))
    return (p - q).detach() * p


def test_a_frozen_token_whose_loss_is_no_number_contributes_nothing(tmp_path: Path) -> None:
    """As where the teacher excludes what the student does not."""
    trainer = make_sdft(tmp_path)
    student, teacher = logits_of(6)
    with torch.no_grad():
        teacher[0, 0] = -torch.inf
    logits = sdft_trainer.DistillationLogits(IDS, MASK, student, teacher)
    trainer.model.train()
    attachment = attach_weights(trainer, TokenWeights([2], 0.0))
    attachment._wrapping.wrap()
    try:
        found = trainer._compute_self_distillation_loss(trainer.model, {}, logits)
        (gradient,) = torch.autograd.grad(found, student)
    finally:
        attachment.detach()
    assert found.isfinite()
    assert gradient.isfinite().all()
    assert (gradient[0, 0] == 0).all()


@pytest.mark.parametrize("name", ["gold", "iw_opd", "sdft"])
def test_the_log_has_the_losses_without_weights(tmp_path: Path, name: str) -> None:
    """And each recorded call is compared with the weighted loss that was trained."""
    trainer = MAKE[name](tmp_path, learning_rate=0.0, max_steps=2)
    recorder = Recorder(tmp_path / "log", every=1, fixed_sequences=3, fixed_every=1, quiet=True)
    with attach(trainer, recorder, weights=TokenWeights(HALF, 0.25)):
        trainer.train()
    assert rocktok.info(tmp_path / "log").mismatches == 0
    rows = read_table(tmp_path / "log")
    weight = np.where(rows["token_id"] % 2 == 0, 0.25, 1.0)
    # GOLD divides by the number of labels in the data, which the log does not have.
    for step, loss in enumerate(logged(trainer, "loss") if name == "sdft" else []):
        mine = rows["step"] == step
        texts = np.unique(rows["sequence_id"][mine])
        means = [
            (weight * rows["loss"])[rows["sequence_id"] == text].mean(dtype=np.float64)
            for text in texts
        ]
        assert loss == pytest.approx(np.mean(means), rel=1e-4)
    assert len(read_sequences(tmp_path / "log")) == 8


def test_weights_that_are_wrong_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TokenWeights.of
    monkeypatch.setattr(
        TokenWeights, "of", lambda self, ids, mask=None: original(self, ids.roll(1, 1), mask)
    )
    trainer = make_sdft(tmp_path, max_steps=1)
    recorder = Recorder(tmp_path / "log", every=1, fixed_sequences=0, quiet=True)
    with (
        pytest.warns(RocktokWarning, match="the recorded losses differ from the trained ones"),
        attach(trainer, recorder, weights=TokenWeights(HALF, 0.25)),
    ):
        trainer.train()


def test_what_cannot_be_weighted_is_refused(tmp_path: Path) -> None:
    weights = TokenWeights([1], 0.0)
    served = make_iw_opd(tmp_path)
    served.use_teacher_server = True
    said = "attach_weights: IWOPDTrainer has use_teacher_server=True"
    with pytest.raises(HookError, match=said):
        attach_weights(served, weights)
    gold = make_gold(tmp_path)
    gold.use_uld_loss, gold.teacher_tokenizer = True, gold.processing_class
    with pytest.raises(HookError, match="attach_weights: GOLDTrainer has use_uld_loss=True"):
        attach_weights(gold, weights)

    class Mine(sdft_trainer.SDFTTrainer):  # type: ignore[misc]
        def _compute_self_distillation_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super()._compute_self_distillation_loss(*args, **kwargs)

    with pytest.raises(HookError, match="Mine overrides _compute_self_distillation_loss, so that"):
        attach_weights(make_sdft(tmp_path, kind=Mine), weights)
