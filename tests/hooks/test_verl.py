"""The hook of verl, on a stand-in with its signatures, its packing and its shift."""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
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
    forget,
    log_softmax,
    read,
    reverse_kl,
    run_of,
    sequences,
    use_stubs,
)

HOOK = "rocktok.hooks.verl"
#: Prompt, response, and which of its tokens a tool wrote.
TEXTS = [
    ([5, 6, 7], [8, 9, END], []),
    ([5, 6], [10, 11, 12, 13, 14], [2]),
]


@pytest.fixture
def verl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    use_stubs(monkeypatch, "verl", HOOK)
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", HOOK)
    monkeypatch.setenv("ROCKTOK_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("ROCKTOK_EVERY", "1")
    monkeypatch.setenv("ROCKTOK_QUIET", "1")

    def module(name: str) -> Any:
        return importlib.import_module(f"verl.{name}" if name else "verl")

    yield module
    for recorder in recorders(module) if HOOK in sys.modules else ():
        recorder.close(final=False)
    forget("verl", HOOK)


def nested(rows: list[Any]) -> Any:
    return torch.nested.as_nested_tensor([torch.as_tensor(r) for r in rows], layout=torch.jagged)


def batch(teacher: Model, topk: int | None, padded: bool = False, **flags: Any) -> dict[str, Any]:
    """What a worker is given: packed texts, and the teacher's answers one place to the left."""
    ids = [torch.tensor(p + r) for p, r, _ in TEXTS]
    logprobs = [torch.log_softmax(teacher(each), -1).detach() for each in ids]
    data: dict[str, Any] = {"input_ids": nested(ids), "temperature": 1.0, **flags}
    if topk is None:
        following = [torch.cat([each[1:], each[:1]]) for each in ids]
        data["teacher_logprobs"] = nested(
            [z.gather(1, t[:, None]) for z, t in zip(logprobs, following, strict=True)]
        )
    else:
        tops = [z.topk(topk) for z in logprobs]
        data["teacher_logprobs"] = nested([top.values for top in tops])
        data["teacher_ids"] = nested([top.indices for top in tops])
    masks = [[int(i not in tool) for i in range(len(r))] for _, r, tool in TEXTS]
    if not padded:
        data["prompts"] = nested([p for p, _, _ in TEXTS])
        data["responses"] = nested([r for _, r, _ in TEXTS])
        data["response_mask"] = nested(masks)
        return data
    before, after = (max(len(text[i]) for text in TEXTS) for i in (0, 1))
    left = [[0] * (before - len(p)) + p for p, _, _ in TEXTS]
    right = [r + [0] * (after - len(r)) for _, r, _ in TEXTS]
    there = [[0] * (before - len(p)) + [1] * (len(p) + len(r)) + [0] * (after - len(r))
             for p, r, _ in TEXTS]  # fmt: skip
    data["prompts"], data["responses"] = torch.tensor(left), torch.tensor(right)
    data["attention_mask"] = torch.tensor(there)
    data["response_mask"] = torch.tensor([m + [0] * (after - len(m)) for m in masks])
    return data


def make_engine(verl: Any, student: Model, **calls: Any) -> Any:
    """An engine on one process; `calls` replace its answers about ranks."""
    base = verl("workers.engine.base").BaseEngine
    parts = verl("trainer.distillation.fsdp.losses")

    class Engine(base):  # type: ignore[misc]
        steps_taken = 0
        optimizer = SimpleNamespace(state={})
        model_config = SimpleNamespace(
            path="small", tokenizer=student.tokenizer, hf_config=student.config
        )

        def forward_backward_batch(self, data: Any, loss_function: Any) -> Any:
            ids = data["input_ids"]
            packed = torch.cat([student(each) for each in ids.unbind()])
            output = {}
            if "teacher_ids" in data:
                total, outputs = len(packed), []
                for rank in range(parts.PARTS):
                    parts.RANK = rank
                    mine = parts.slice_input_tensor(packed[None], 1)
                    outputs.append(loss_function(student_logits=mine, data=data))
                for name in outputs[0]:
                    whole = torch.cat([each[name] for each in outputs], 1)[0, :total]
                    output[name] = torch.nested.nested_tensor_from_jagged(whole, ids.offsets())
            log_p = torch.log_softmax(packed, -1)
            following = torch.cat([torch.roll(each, -1) for each in ids.unbind()])
            values = log_p.gather(1, following[:, None]).squeeze(1)
            entropy = -(log_p.exp() * log_p).sum(-1)
            for name, each in (("log_probs", values), ("entropy", entropy)):
                output[name] = torch.nested.nested_tensor_from_jagged(each, ids.offsets())
            if data.get("distillation_only"):
                del output["log_probs"]
            return loss_function(model_output=output, data=data)

    for name, call in calls.items():
        setattr(Engine, name, call)
    return Engine()


def loss_of(verl: Any, mode: str, topk: int = 20, strategy: str = "fsdp") -> Any:
    losses = verl("trainer.distillation.losses")
    config = SimpleNamespace(
        distillation_loss=SimpleNamespace(
            loss_mode=mode,
            topk=topk,
            loss_settings=SimpleNamespace(use_topk=mode == "forward_kl_topk"),
        ),
        teacher_models={"one": SimpleNamespace(model_path="big")},
    )
    actor = SimpleNamespace(strategy=strategy)
    return partial(losses.distillation_ppo_loss, config=actor, distillation_config=config)


def recorders(verl: Any) -> list[Any]:
    """That of the hook, once it has started."""
    cells = verl("workers.engine.base").BaseEngine.train_batch.__closure__
    found = [getattr(cell.cell_contents, "_recorder", None) for cell in cells or ()]
    return [recorder for recorder in found if recorder is not None]


def train(verl: Any, engine: Any, data: Any, loss: Any, steps: int = 1) -> list[float]:
    values = [float(engine.train_batch(data, loss)[0].detach()) for _ in range(steps)]
    for recorder in recorders(verl):
        recorder.sync()
    return values


def places() -> list[tuple[int, int, int]]:
    return [(i, j, t) for i, (_, response, tool) in enumerate(TEXTS)
            for j, t in enumerate(response) if j not in tool]  # fmt: skip


def logits_at(model: Model) -> Any:
    rows = [model(torch.tensor(p + r))[len(p) + j - 1].detach().double().numpy()
            for p, r, tool in TEXTS for j in range(len(r)) if j not in tool]  # fmt: skip
    return np.array(rows)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("mode", ["k1", "k3"])
def test_estimators_record_the_sampled_tokens(
    verl: Any, tmp_path: Path, padded: bool, mode: str
) -> None:
    student, teacher = Model(1), Model(2)
    engine = make_engine(verl, student)
    data = batch(teacher, None, padded, calculate_entropy=True)
    trained = train(verl, engine, data, loss_of(verl, mode), 2)
    log = tmp_path / "log"
    names = ("student_logprob", "teacher_logprob", "student_entropy")
    rows = read(log, columns=names)
    assert rows["step"].tolist() == [0] * 7 + [1] * 7
    rows = {name: values[:7] for name, values in rows.items()}
    assert rows["token_id"].tolist() == [t for _, _, t in places()]
    assert rows["position"].tolist() == [j for _, j, _ in places()]
    log_p, log_q = (log_softmax(logits_at(model)) for model in (student, teacher))
    tokens = [t for _, _, t in places()]
    for name, each in (("student_logprob", log_p), ("teacher_logprob", log_q)):
        np.testing.assert_allclose(rows[name], each[range(7), tokens], rtol=1e-5)
    ratio = (log_p - log_q)[range(7), tokens]
    np.testing.assert_allclose(rows["loss"], ratio, rtol=1e-4, atol=1e-5)
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    np.testing.assert_allclose(rows["student_entropy"], entropy, rtol=1e-4)
    assert len(trained) == 2
    written = sequences(log)[:2]
    assert [row["prompt_token_ids"] for row in written] == [p for p, _, _ in TEXTS]
    assert [row["finish_reason"] for row in written] == ["stop", "length"]
    run = run_of(log)
    assert (run["loss"]["exactness"], run["loss"]["trained"]) == ("sampled", mode == "k1")
    assert (run["student"], run["teacher"], run["vocab_size"]) == ("small", "big", TOKENS)
    assert run["extra"]["loss_mode"] == mode


@pytest.mark.parametrize("parts", [1, 2])
def test_the_top_k_loss_gives_a_lower_bound_and_masses(
    verl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """Also where the texts are split over two ranks, as sequence parallelism does."""
    monkeypatch.setenv("ROCKTOK_COLUMNS", "lenses")
    student, teacher = Model(1), Model(2)
    engine = make_engine(verl, student)
    verl("trainer.distillation.fsdp.losses").PARTS = parts
    train(verl, engine, batch(teacher, 20), loss_of(verl, "forward_kl_topk"))
    log = tmp_path / "log"
    names = ("student_logprob", "student_entropy", "overlap", "student_mass", "teacher_mass")
    rows = read(log, columns=names)
    assert rows["token_id"].tolist() == [t for _, _, t in places()]
    z, y = logits_at(student), logits_at(teacher)
    p, q = np.exp(log_softmax(z)), np.exp(log_softmax(y))
    exact = reverse_kl(z, y)
    for i, (_, _, token) in enumerate(places()):
        top = np.argsort(-q[i])[:20]
        known = (p[i, top] * np.log(p[i, top] / q[i, top])).sum()
        rest_p, rest_q = 1 - p[i, top].sum(), 1 - q[i, top].sum()
        # 1e-6 is added to what the teacher leaves, and its float32 numbers are off by less.
        low, high = (known + rest_p * np.log(rest_p / (rest_q + more)) for more in (2e-6, 0.0))
        assert low * (1 - 1e-5) <= rows["loss"][i] <= high * (1 + 1e-5)
        assert rows["loss"][i] <= exact[i] + 1e-5
        both = list(set(np.argsort(-q[i])[:16]) & set(np.argsort(-p[i])[:16]))
        assert rows["overlap"][i] == pytest.approx(len(both) / 16)
        assert rows["student_mass"][i] == pytest.approx(p[i, both].sum(), rel=1e-4)
        assert rows["teacher_mass"][i] == pytest.approx(q[i, both].sum(), rel=1e-4)
        assert rows["student_logprob"][i] == pytest.approx(np.log(p[i, token]), rel=1e-4)
    run = run_of(log)
    assert (run["loss"]["exactness"], run["extra"]["topk"]) == ("topk", 20)


def test_what_is_trained_is_the_same(verl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = Model(1), Model(2)
    data = batch(teacher, 20)
    hooked = train(verl, make_engine(verl, student), data, loss_of(verl, "forward_kl_topk"))
    monkeypatch.delenv("VERL_USE_EXTERNAL_MODULES")
    forget("verl", HOOK)
    engine = make_engine(verl, student)
    plain = engine.train_batch(data, loss_of(verl, "forward_kl_topk"))
    assert hooked == [float(plain[0].detach())]


def test_without_the_sampled_tokens_log_probabilities_the_column_is_left_out(
    verl: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROCKTOK_QUIET")
    data = batch(Model(2), 4, distillation_only=True)
    train(verl, make_engine(verl, Model(1)), data, loss_of(verl, "forward_kl_topk", 4))
    said = capsys.readouterr().err
    assert "the actor's distillation will be recorded into" in said
    assert "not recorded, as verl's top-k loss has the teacher's likeliest tokens only: " in said
    attempt = json.loads((tmp_path / "log/attempts/00.json").read_text())
    assert attempt["columns"] == ["student_entropy"]
    assert read(tmp_path / "log", columns=("student_entropy",))["loss"].shape == (7,)


def test_one_of_the_ranks_that_share_a_text_writes(verl: Any, tmp_path: Path) -> None:
    engine = make_engine(verl, Model(1), is_mp_src_rank_with_outputs=lambda self: False)
    train(verl, engine, batch(Model(2), None), loss_of(verl, "k1"))
    assert not (tmp_path / "log").exists()


def test_shards_are_named_by_the_data_parallel_rank(
    verl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two ranks, whose exchange with the first is played to it."""
    told: list[Any] = []

    def exchange(result: Any, value: Any, group: Any) -> None:
        # The first rank opened the log; this one says what it is told.
        result[:] = [told[0] if told and isinstance(value, tuple) else value, value]

    from rocktok.hooks.fixed_set import Inherited
    from rocktok.hooks.start import _Opened
    from rocktok.log import LogWriter

    log = tmp_path / "log"
    run = {"vocab_size": TOKENS, "loss": {"divergence": "reverse_kl", "exactness": "sampled"}}
    columns = ("student_logprob", "teacher_logprob")
    first = LogWriter(log, columns=columns, rank=0, world_size=2, run=run)
    told.append((_Opened(first.attempt, first.run_id, Inherited(), (END,), None), None))
    monkeypatch.setattr(torch.distributed, "all_gather_object", exchange)
    engine = make_engine(
        verl,
        Model(1),
        get_data_parallel_rank=lambda self: 1,
        get_data_parallel_size=lambda self: 2,
        get_data_parallel_group=lambda self: "the group",
    )
    train(verl, engine, batch(Model(2), None), loss_of(verl, "k1"))
    shards = [path.name for path in log.rglob("*.parquet")]
    assert shards and all(name.startswith("rank-00001-") for name in shards)


def test_a_step_begins_where_the_optimizer_is(verl: Any, tmp_path: Path) -> None:
    engine = make_engine(verl, Model(1))
    type(engine).optimizer = SimpleNamespace(state={"w": {"step": torch.tensor(7.0)}})
    train(verl, engine, batch(Model(2), None), loss_of(verl, "k1"), 2)
    steps = rocktok.open(tmp_path / "log").steps("rollout")
    assert [step.step for step in steps] == [7, 8]


def test_models_without_a_teacher_pass_through(verl: Any, tmp_path: Path) -> None:
    engine = make_engine(verl, Model(1))
    type(engine).forward_backward_batch = lambda self, data, loss_function: "critic"
    assert engine.train_batch({}, partial(print, config=None)) == "critic"
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("flags", "strategy", "message"),
    [
        ({}, "megatron", "Megatron workers split the logits over ranks"),
        ({"use_fused_kernels": True}, "fsdp", "fused kernels show no logits"),
    ],
)
def test_a_top_k_loss_without_logits_is_refused_before_the_first_step(
    verl: Any, tmp_path: Path, flags: dict[str, Any], strategy: str, message: str
) -> None:
    engine = make_engine(verl, Model(1))
    loss = loss_of(verl, "forward_kl_topk", strategy=strategy)
    with pytest.raises(HookError, match=message):
        engine.train_batch(batch(Model(2), 20, **flags), loss)
    assert engine.steps_taken == 0 and not (tmp_path / "log").exists()


def test_what_goes_wrong_drops_the_step_and_not_the_training(verl: Any, tmp_path: Path) -> None:
    engine, data = make_engine(verl, Model(1)), batch(Model(2), 20)
    bad = {
        **data,
        "teacher_logprobs": nested([x + torch.nan for x in data["teacher_logprobs"].unbind()]),
    }
    loss = loss_of(verl, "forward_kl_topk")
    with pytest.warns(RocktokWarning, match="NaN"):
        train(verl, engine, bad, loss)
    train(verl, engine, data, loss)
    steps = rocktok.open(tmp_path / "log").steps("rollout")
    assert [step.step for step in steps] == [1]


def test_an_unknown_signature_is_an_error_when_verl_is_imported(
    verl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VERL_USE_EXTERNAL_MODULES")
    registry = verl("trainer.distillation.losses").DISTILLATION_LOSS_REGISTRY
    monkeypatch.setitem(registry, "k3", lambda config, model_output, data: None)
    with pytest.raises(HookError, match=r"k3 of verl .* lacks distillation_config"):
        importlib.import_module(HOOK)
    monkeypatch.delitem(registry, "k3")
    with pytest.raises(HookError, match=r"has no DISTILLATION_LOSS_REGISTRY.k3"):
        importlib.import_module(HOOK)


def test_without_a_log_it_is_an_error_when_verl_is_imported(
    verl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROCKTOK_LOG")
    with pytest.raises(HookError, match="ROCKTOK_LOG is not set"):
        verl("")
