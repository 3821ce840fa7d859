"""The language-model sample with tiny models: layers, generation, checkpoints, kills."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch

pytest.importorskip("trl")

from transformers import LlamaConfig, LlamaForCausalLM

import rocktok
from tests.paths import ROOT
from tests.preloaded import Preloaded
from tests.processes import run_command, wait_until
from tests.trl_models import VOCAB_SIZE, make_tokenizer, read_table

sys.path.append(str(ROOT / "sample_data"))

import make_smol
import smol_models

SAMPLING: dict[str, Any] = {"max_new_tokens": 6, "do_sample": True, "pad_token_id": 1}
SETTINGS = make_smol.Settings(
    steps=4, batch=4, tokens=6, prompts=12, kept=8, record_every=1, fixed_every=2, save_every=2,
    learning_rate=1e-3, warmup_steps=1,
)  # fmt: skip


def tiny_model(layers: int = 3) -> LlamaForCausalLM:
    torch.manual_seed(5)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            initializer_range=0.3,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=1,
        )
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory whose models are made: a teacher of three layers, a student of two."""
    work = tmp_path_factory.mktemp("work")
    teacher = tiny_model()
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    for name, layers in (("teacher", [0, 1, 2]), ("student", [0, 2])):
        smol_models.with_layers(teacher, layers).save_pretrained(work / "models" / name)
        tokenizer.save_pretrained(work / "models" / name)
    return work


def test_the_student_is_the_teacher_without_its_middle():
    whole = tiny_model(4)
    student = smol_models.with_layers(whole, [0, 3])
    mine, theirs = student.state_dict(), whole.state_dict()
    assert len(student.model.layers) == 2 and student.config.num_hidden_layers == 2
    for name, value in mine.items():
        source = name.replace("model.layers.1.", "model.layers.3.")
        assert torch.equal(value, theirs[source]), name
    # A forward pass through the kept layers alone gives what the student gives.
    ids = torch.arange(2, 12)[None]
    whole.model.layers = torch.nn.ModuleList([whole.model.layers[0], whole.model.layers[3]])
    with torch.no_grad():
        torch.testing.assert_close(
            student(ids, use_cache=False).logits, whole(ids, use_cache=False).logits
        )


def test_generation_follows_the_weights_of_the_moment(tmp_path: Path):
    model = tiny_model().train()
    generate = smol_models.Generation(model, tmp_path / "texts", 0, torch.bfloat16)
    ids = torch.arange(2, 10).reshape(2, 4)
    options = {**SAMPLING, "do_sample": False}
    before = generate(ids, torch.ones_like(ids), **options)
    assert torch.equal(before, generate(ids, torch.ones_like(ids), **options))
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight.flip(0))
    after = generate(ids, torch.ones_like(ids), **options)
    rounded = tiny_model().to(torch.bfloat16)
    rounded.load_state_dict(model.state_dict())
    wanted = rounded.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(after, wanted) and not torch.equal(before, after)
    assert all(value.dtype == torch.float32 for value in model.parameters())
    assert not (tmp_path / "texts").exists()


def test_kept_text_is_written_once_and_the_same_in_whatever_order(tmp_path: Path):
    first, second = torch.arange(2, 10).reshape(2, 4), torch.arange(20, 28).reshape(2, 4)
    generate = smol_models.Generation(tiny_model().eval(), tmp_path / "a", 0, torch.float32)
    written = [generate(ids, torch.ones_like(ids), **SAMPLING) for ids in (first, second)]
    other = smol_models.Generation(tiny_model().eval(), tmp_path / "b", 0, torch.float32)
    backwards = [other(ids, torch.ones_like(ids), **SAMPLING) for ids in (second, first)]
    assert torch.equal(written[0], backwards[1]) and torch.equal(written[1], backwards[0])
    # Read, not written anew: these weights would write something else.
    changed = smol_models.Generation(
        smol_models.with_layers(tiny_model(), [2]).eval(), tmp_path / "a", 0, torch.float32
    )
    assert torch.equal(changed(first, torch.ones_like(first), **SAMPLING), written[0])
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_what_the_teacher_makes_of_kept_text_is_computed_once(tmp_path: Path):
    student, teacher = tiny_model(2), tiny_model(3).eval()
    ids, mask = torch.arange(2, 10).reshape(2, 4), torch.ones(2, 4, dtype=torch.long)
    with torch.no_grad():
        wanted = teacher.model(input_ids=ids, attention_mask=mask).last_hidden_state
    forward = teacher.model.forward
    calls = []

    def counted(**inputs: Any) -> Any:
        calls.append(student.training)
        return forward(**inputs)

    teacher.model.forward = counted
    teacher.model.forward = smol_models.Remembered(teacher, student, tmp_path / "kept")
    for training in (False, False, True, True):
        student.train(training)
        with torch.no_grad():
            made = teacher.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.equal(made, wanted)
    with torch.no_grad():
        student.eval()
        other = teacher.base_model(input_ids=ids.flip(0), attention_mask=mask).last_hidden_state
    assert torch.equal(other, wanted.flip(0))
    assert calls == [False, True, True, False]


def test_only_whole_checkpoints_count(tmp_path: Path):
    for step, content in ((10, '{"global_step": 10}'), (20, '{"global_st'), (30, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if content is not None:
            (folder / "trainer_state.json").write_text(content)
    found = smol_models.checkpoints(tmp_path)
    assert found == {10: tmp_path / "checkpoint-10"}
    smol_models.remove_others(tmp_path, found.values())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_a_run_of_other_settings_is_refused(tmp_path: Path):
    make_smol.keep_settings(tmp_path / "run", SETTINGS)
    make_smol.keep_settings(tmp_path / "run", SETTINGS)
    with pytest.raises(click.ClickException, match="holds a run of other settings"):
        make_smol.keep_settings(tmp_path / "run", make_smol.FULL)


def test_the_full_run_has_prompts_and_steps_enough():
    full = make_smol.FULL
    assert full.steps >= 120 and full.prompts >= 1000 and full.kept <= full.prompts
    assert full.steps // full.fixed_every + 1 == 4 and full.steps % full.save_every == 0
    assert full.kept * full.tokens >= make_smol.ENOUGH_POSITIONS and full.dtype == torch.float32


CHILD = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path[:0] = sys.argv[1:3]
import make_smol, tests.sample_data.test_smol_run as test
make_smol.distil(Path(sys.argv[3]), Path(sys.argv[4]), test.SETTINGS, record=True)
"""


def child(work: Path, run: Path) -> Preloaded:
    """The training of a run, in a process of its own."""
    return Preloaded("-c", CHILD, ROOT / "sample_data", ROOT, work, run)


def killed_when(due: Callable[[], bool], work: Path, run: Path) -> None:
    """Start its training, and SIGKILL it once `due`."""
    with child(work, run) as process:
        wait_until(due, process)
        process.send_signal(signal.SIGKILL)


@pytest.mark.long
@pytest.mark.exhaustive
def test_a_run_that_is_killed_ends_as_one_that_is_not(work: Path, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    make_smol.distil(work, whole, SETTINGS, record=True)

    killed_when(lambda: any((broken / "texts").glob("*.npy")), work, broken)
    first = {path: path.stat().st_mtime_ns for path in (broken / "texts").glob("*.npy")}
    killed_when(lambda: 2 in smol_models.checkpoints(broken / "trainer"), work, broken)
    with child(work, broken) as process:
        assert process.wait() == 0, process.communicate()[1]
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())

    def losses(run: Path) -> list[float]:
        state = smol_models.checkpoints(run / "trainer")[4] / "trainer_state.json"
        return [e["loss"] for e in json.loads(state.read_text())["log_history"] if "loss" in e]

    assert losses(whole) == losses(broken) and len(losses(whole)) == 4
    one, other = (rocktok.open(run / "log") for run in (whole, broken))
    assert one.complete_steps("fixed") == other.complete_steps("fixed") == [0, 2, 4]
    # The hook finds the teacher's tokenizer, and no path of this machine reaches the log.
    assert one.run is not None and one.run["tokenizers"]["tokens_differ"] == 0
    assert one.run["teacher"] == "SmolLM2-135M-Instruct" and str(work) not in json.dumps(one.run)
    # Sequence ids name the attempt; text and losses are the same.
    one_rows, other_rows = (read_table(run / "log", "fixed") for run in (whole, broken))
    for name in ("step", "position", "token_id", "loss"):
        np.testing.assert_array_equal(one_rows[name], other_rows[name])

    for run in (whole, broken):
        make_smol.conclude(run, SETTINGS, run / "figures.json")
        make_smol.smol_slim.slim(run / "log", run / "slim", make_smol.LIMIT)
        make_smol.publish(run / "slim", run / "figures.json", run / "published")
        code, _, error = run_command("info", run / "published", "--verify")
        assert code == 0, error
    figures = [json.loads((run / "published.json").read_text()) for run in (whole, broken)]
    assert figures[0]["kept_text"] == figures[1]["kept_text"]
    # What is finished is not done again.
    before = sorted((broken / "log").rglob("*"))
    make_smol.distil(work, broken, SETTINGS, record=True)
    assert sorted((broken / "log").rglob("*")) == before
