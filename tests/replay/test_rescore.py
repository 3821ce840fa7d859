"""`rescore`: real checkpoints on disk against float64 logits, going on, and its messages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import rocktok
from rocktok import schema
from rocktok.errors import LogError, UsageError
from rocktok.hooks.arguments import DEFAULT_COLUMNS
from rocktok.hooks.contexts import projection
from rocktok.log import LogWriter
from rocktok.log.sequences import load_domains
from rocktok.replay import rescore as replay
from rocktok.replay.models import check_widths, fingerprint, step_of
from rocktok.replay.texts import load_texts
from tests.processes import run_command
from tests.trl_models import VOCAB_SIZE, make_model, make_tokenizer, read_table

RUN = {"vocab_size": VOCAB_SIZE, "loss": {"exactness": "exact", "student_temperature": 1.0}}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three students and a teacher."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, seed, hidden in (("checkpoint-10", 1, 32), ("checkpoint-20", 3, 32),
                               ("checkpoint-30", 4, 32), ("teacher", 2, 48)):  # fmt: skip
        make_model(seed, hidden=hidden).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Sequences of unlike length."""
    rng = np.random.default_rng(1)
    rows = [
        {
            "sequence_id": i,
            "prompt_id": f"p{i // 2}",
            "prompt_token_ids": rng.integers(2, 200, 3 + i % 4).tolist(),
            "token_ids": rng.integers(2, 200, 4 + 3 * (i % 5)).tolist(),
        }
        for i in range(12)
    ]
    path = tmp_path / "text.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def rescore(checkpoints: Path, text: Path, output: Path, *steps: int, **options: Any) -> Any:
    torch.set_num_threads(1)
    students = tuple(str(checkpoints / f"checkpoint-{step}") for step in steps or (10, 20))
    return replay.rescore(str(text), students, str(checkpoints / "teacher"), str(output),
                          device="cpu", **options)  # fmt: skip


def test_losses_are_those_of_float64_logits(checkpoints: Path, text: Path, tmp_path: Path) -> None:
    done = rescore(checkpoints, text, tmp_path / "log", batch_tokens=64)
    assert (done.steps, done.sequences) == ((10, 20), 12)
    rows = read_table(tmp_path / "log", "fixed", ["student_logprob", "grad_norm"])
    models = {10: make_model(1), 20: make_model(3)}
    teacher = make_model(2, hidden=48).double().eval()
    at = 0
    for step, student in models.items():
        student.double().eval()
        texts = load_texts(str(text))
        for number, sequence in enumerate(texts.sequence_S):
            prompt, completion = texts.prompts[number], texts.completions[number]
            ids = torch.tensor([[*prompt, *completion]], dtype=torch.long)
            with torch.no_grad():
                p, q = (
                    model(input_ids=ids).logits[0].log_softmax(-1) for model in (student, teacher)
                )
            for t, v in enumerate(completion):
                place = len(prompt) - 1 + t
                gap = p[place] - q[place]
                loss = float((p[place].exp() * gap).sum())
                found = [rows[name][at] for name in ("step", "sequence_id", "position", "token_id")]
                assert found == [step, sequence, t, v]
                assert rows["loss"][at] == pytest.approx(loss, abs=2e-5, rel=2e-5)
                assert rows["student_logprob"][at] == pytest.approx(float(p[place, v]), abs=2e-5)
                norm = float((p[place].exp() * (gap - loss)).norm())
                assert rows["grad_norm"][at] == pytest.approx(norm, abs=2e-5, rel=2e-5)
                at += 1
    assert at == len(rows["loss"])


def test_what_stands_beside_is_that_of_the_models(
    checkpoints: Path, text: Path, tmp_path: Path
) -> None:
    columns = ("jsd", "teacher_rank", "teacher_end")
    done = rescore(checkpoints, text, tmp_path / "log", batch_tokens=64, alternatives=4,
                   columns=columns)  # fmt: skip
    assert done.notes == ()
    log = rocktok.open(tmp_path / "log")
    assert log.columns("fixed")[5:] == list(columns)
    assert log.complete_steps("fixed") == log.complete_steps("alternatives") == [10, 20]
    assert log.complete_steps("contexts") == [10]
    assert log.run is not None
    assert log.run["terminal_ids"] == {"student": [0], "teacher": [0]}
    assert log.run["special_ids"] == [0, 1]
    assert log.run["contexts"] == {"bits": 256, "seed": 0, "hidden_size": 48}
    student, teacher = make_model(3).double().eval(), make_model(2, hidden=48).double().eval()
    texts, parts = load_texts(str(text)), []
    for number in range(len(texts)):
        prompt, completion = texts.prompts[number], texts.completions[number]
        ids = torch.tensor([[*prompt, *completion]], dtype=torch.long)
        places = slice(len(prompt) - 1, -1)
        with torch.no_grad():
            p, q = (m(input_ids=ids).logits[0, places].softmax(-1) for m in (student, teacher))
            hidden = teacher.model(input_ids=ids).last_hidden_state[0, places]
        parts.append((p.numpy(), q.numpy(), hidden.numpy(), completion))
    p_NV, q_NV, hidden_NH, token_N = (np.concatenate(part) for part in zip(*parts, strict=True))
    rows = read_table(tmp_path / "log", "fixed", columns)
    later = rows["step"] == 20
    q_N = np.take_along_axis(q_NV, token_N[:, None], axis=1)
    np.testing.assert_array_equal(rows["teacher_rank"][later], 1 + (q_NV > q_N).sum(axis=1))
    np.testing.assert_allclose(rows["teacher_end"][later], q_NV[:, 0], rtol=1e-4, atol=1e-7)
    names = ("student_ids", "student_probs", "teacher_ids", "teacher_probs")
    (batch,) = log.scan("alternatives", names, steps=[20])
    by_key = np.lexsort((batch.columns["position"], batch.columns["sequence_id"]))
    for who, probability_NV in (("student", p_NV), ("teacher", q_NV)):
        ids_NK = np.argsort(-probability_NV, axis=1, kind="stable")[:, :4]
        np.testing.assert_array_equal(batch.columns[f"{who}_ids"][by_key], ids_NK)
        np.testing.assert_allclose(
            batch.columns[f"{who}_probs"][by_key],
            np.take_along_axis(probability_NV, ids_NK, axis=1), rtol=1e-3, atol=1e-7,
        )  # fmt: skip
    (batch,) = log.scan("contexts", ["context"])
    by_key = np.lexsort((batch.columns["position"], batch.columns["sequence_id"]))
    value_NK = (hidden_NH - hidden_NH.mean(axis=0)) @ projection(48)
    bits_NK = np.unpackbits(batch.columns["context"][by_key], axis=1, bitorder="little")
    clear_NK = np.abs(value_NK) > 1e-4 * np.abs(value_NK).mean()
    np.testing.assert_array_equal(bits_NK[clear_NK], (value_NK > 0)[clear_NK])


def test_what_is_recorded_may_be_chosen(checkpoints: Path, text: Path, tmp_path: Path) -> None:
    rescore(checkpoints, text, tmp_path / "log", 10, alternatives=0, contexts=False, columns=())
    log = rocktok.open(tmp_path / "log")
    assert log.tables() == ("fixed", "sequences")
    assert log.columns("fixed") == ["step", "sequence_id", "position", "token_id", "loss"]
    assert log.run is not None and "contexts" not in log.run
    for options in ({}, {"contexts": True, "columns": ()}, {"alternatives": 1, "columns": ()}):
        with pytest.raises(LogError, match="holds a log of other text, models or options"):
            rescore(checkpoints, text, tmp_path / "log", 10,
                    **{"alternatives": 0, "contexts": False, **options})  # fmt: skip
    # The recorder's default, and a preset.
    rescore(checkpoints, text, tmp_path / "default", 10)
    assert tuple(rocktok.open(tmp_path / "default").columns("fixed")[5:]) == DEFAULT_COLUMNS
    rescore(checkpoints, text, tmp_path / "all", 10, columns="all")
    assert tuple(rocktok.open(tmp_path / "all").columns("fixed")[5:]) == schema.OPTIONAL_STATISTICS


def test_a_text_too_long_for_sketches_is_said(
    checkpoints: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MOST_POSITIONS", 110)
    done = rescore(checkpoints, text, tmp_path / "log", 10)
    assert done.notes == (
        "contexts are left out: the text has 111 positions, and more than 110 would take more than "
        "1 GiB of memory; score fewer sequences",
    )
    assert rocktok.open(tmp_path / "log").tables() == ("fixed", "alternatives", "sequences")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "lens"}, r"^columns is 'lens'; give one of the presets default, lenses, all,"),
        ({"columns": ("kld",)}, r"^columns: no column 'kld'; choose from log_ratio, student_logp"),
        ({"alternatives": -1}, r"^alternatives is -1; it must be 0 or more$"),
        ({"alternatives": 321}, r"^alternatives is 321, more than the vocabulary of 320$"),
    ],
)
def test_options_out_of_range(
    checkpoints: Path, text: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        rescore(checkpoints, text, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_end_masses_need_terminal_ids(checkpoints: Path, text: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-10", "teacher"):
        shutil.copytree(checkpoints / name, tmp_path / name)
        for file in (tmp_path / name).glob("tokenizer*"):
            file.unlink()
        (tmp_path / name / "generation_config.json").unlink()
        path = tmp_path / name / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": None}))
    message = (
        r"^columns has student_end and teacher_end, which need terminal ids; neither the models' "
        "generation_config.json nor their tokenizers name one: name the columns without these$"
    )
    with pytest.raises(UsageError, match=message):
        rescore(tmp_path, text, tmp_path / "out", 10, columns="lenses")
    assert not (tmp_path / "out").exists()
    # A list, as chat models have it; and of the tokenizer none is needed.
    (tmp_path / "teacher/generation_config.json").write_text('{"eos_token_id": [3, 8]}')
    rescore(tmp_path, text, tmp_path / "out", 10, columns="lenses")
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["terminal_ids"] == {"student": [], "teacher": [3, 8]}
    assert "special_ids" not in run


@pytest.mark.long
def test_any_batch_gives_the_same(checkpoints: Path, text: Path, tmp_path: Path) -> None:
    tables = []
    for size in (100, 1, 40, 10_000):
        rescore(checkpoints, text, tmp_path / f"{size}", batch_tokens=size)
        tables.append(read_table(tmp_path / f"{size}", "fixed"))
    first = tables[0]
    for other in tables[1:]:
        np.testing.assert_array_equal(first["token_id"], other["token_id"])
        np.testing.assert_allclose(first["loss"], other["loss"], rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_detect_reads_it_with_context(checkpoints: Path, text: Path, tmp_path: Path) -> None:
    rescore(checkpoints, text, tmp_path / "log")
    result = rocktok.detect(rocktok.open(tmp_path / "log"), context="required")
    assert result.totals["sequences"] == 12
    assert result.thresholds["tau_pre"] > 0
    # And its own text can be scored again, by an open log.
    replay.rescore(rocktok.open(tmp_path / "log"), (str(checkpoints / "checkpoint-10"),),
                   str(checkpoints / "teacher"), str(tmp_path / "again"),
                   device="cpu")  # fmt: skip
    a, b = (read_table(tmp_path / name, "fixed") for name in ("log", "again"))
    np.testing.assert_allclose(a["loss"][a["step"] == 10], b["loss"], rtol=1e-6)


@pytest.mark.long
def test_a_stopped_run_goes_on(
    checkpoints: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rescore(checkpoints, text, tmp_path / "whole", 10, 20, 30)
    scored, load = [], replay.load_model

    def stops(name: str, *rest: str) -> Any:
        scored.append(name)
        if name.endswith("checkpoint-30"):
            raise KeyboardInterrupt
        return load(name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(replay, "load_model", stops)
        with pytest.raises(KeyboardInterrupt):
            rescore(checkpoints, text, tmp_path / "log", 10, 20, 30)
    done = rescore(checkpoints, text, tmp_path / "log", 10, 20, 30)
    assert (done.kept, done.steps) == ((10, 20), (30,))
    a, b = (read_table(tmp_path / name, "fixed") for name in ("whole", "log"))
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name])
    assert rocktok.detect(rocktok.open(tmp_path / "log")).log["post"] == 30
    # All done: nothing is scored, and nothing lost.
    assert rescore(checkpoints, text, tmp_path / "log", 10, 20, 30).steps == ()
    with pytest.raises(LogError, match="holds a log of other text, models or options"):
        rescore(checkpoints, text, tmp_path / "log", 10, 20)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("a/checkpoint-500", 500), ("step_7", 7), ("step-8", 8), ("a/global_step9/", 9),
        ("run-step-10", 10), ("12/", 12), ("out/0003", 3),
        ("final", None), ("gpt2", None), ("Qwen/Qwen3-4", None), ("doorstep5", None),
        ("checkpoint-5/model2", None), ("llama-7", None),
    ],
)  # fmt: skip
def test_steps_from_names(name: str, step: int | None) -> None:
    assert step_of(name) == step


def test_messages(checkpoints: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"^steps is not given, and the name .*teacher tells"):
        replay.rescore(str(text), (str(checkpoints / "teacher"),), "x", str(out))
    with pytest.raises(UsageError, match=r"^steps has 5 twice; give each student its own$"):
        rescore(checkpoints, text, out, steps=(5, 5))
    with pytest.raises(UsageError, match="steps has 1 numbers for 2 students; give one for each"):
        rescore(checkpoints, text, out, steps=(5,))
    with pytest.raises(LogError, match="has 12 whole sequences, 500 were asked for; ask for fewer"):
        rescore(checkpoints, text, out, sequences=500)
    bare = tmp_path / "checkpoint-5"
    bare.mkdir()
    with pytest.raises(LogError, match=r"checkpoint-5: has no config.json; give what save_pretr"):
        replay.rescore(str(text), (str(bare),), str(checkpoints / "teacher"), str(out))
    (bare / "config.json").write_text("{}")
    message = r"checkpoint-5: has no weights \(\*.safetensors or pytorch_model\*.bin\); give what"
    with pytest.raises(LogError, match=message):
        replay.rescore(str(text), (str(bare),), str(checkpoints / "teacher"), str(out))
    with pytest.raises(
        LogError, match="a has 300 logits, b has 320; the first that differs is 300, wh"
    ):
        check_widths(("a", 300), ("b", 320))
    assert not out.exists()


def test_what_is_known_of_the_sequences_is_kept(checkpoints: Path, tmp_path: Path) -> None:
    known = {
        "rollout": [0, 1, 0, 1], "domain": ["maths", "maths", None, "code"],
        "correct": [True, None, False, True], "finish_reason": ["stop", "length", "stop", "stop"],
    }  # fmt: skip
    ids, prompts = [4, 5, 6, 7], [[5, 6]] * 4
    run = {**RUN, "loss": {**RUN["loss"], "student_temperature": 0.5, "teacher_temperature": 1.0}}
    with LogWriter(tmp_path / "text", run=run) as writer:
        facts = {"sequence_id": ids, "num_tokens": 3, "prompt_id": ["p", "p", "q", "q"], **known}
        writer.write({**facts, "step": 40, "prompt_token_ids": prompts}, table="sequences")
        writer.write({"step": 40, "sequence_id": np.repeat(ids, 3), "position": [0, 1, 2] * 4,
                      "token_id": [7, 8, 9] * 4, "loss": 1.0}, table="rollout")  # fmt: skip
        writer.finish_step(40)
    done = rescore(checkpoints, tmp_path / "text", tmp_path / "log", 10)
    assert done.notes == (
        f"{tmp_path / 'text'}: its student had temperature 0.5, its teacher 1; both are scored at "
        "0.5",
    )
    (shard,) = (tmp_path / "log" / "sequences").glob("*.parquet")
    found = pq.read_table(shard).to_pydict()
    assert {name: found[name] for name in known} == known
    assert (found["step"], found["sequence_id"]) == ([40] * 4, ids)
    assert {k: len(v) for k, v in load_domains(rocktok.open(tmp_path / "log")).items()} == {
        "code": 1, "maths": 2
    }  # fmt: skip
    # The same of a file, with a column that the format does not know.
    rows = pa.table({**facts, "step": [1, 2, 3, 4], "prompt_token_ids": prompts,
                     "num_tokens": [3] * 4, "token_ids": [[7, 8, 9]] * 4,
                     "mood": ["good"] * 4})  # fmt: skip
    pq.write_table(rows, tmp_path / "text.parquet")
    assert rescore(checkpoints, tmp_path / "text.parquet", tmp_path / "of_file", 10).notes == ()
    (shard,) = (tmp_path / "of_file" / "sequences").glob("*.parquet")
    found = pq.read_table(shard).to_pydict()
    assert {name: found[name] for name in known} == known
    assert found["step"] == [1, 2, 3, 4]
    assert "mood" not in found


def test_changed_weights_are_not_gone_on_with(
    checkpoints: Path, text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(checkpoints, folder)
    assert rescore(folder, text, tmp_path / "log", 10).steps == (10,)
    before = fingerprint(str(folder / "checkpoint-10"))
    # Of the same shapes, so that names, sizes and headers are the same.
    make_model(9).save_pretrained(folder / "checkpoint-10")
    assert fingerprint(str(folder / "checkpoint-10")) != before
    with pytest.raises(LogError, match="holds a log of other text, models or options"):
        rescore(folder, text, tmp_path / "log", 10)
    shutil.rmtree(folder / "checkpoint-10")
    shutil.copytree(checkpoints / "checkpoint-10", folder / "checkpoint-10")
    assert fingerprint(str(folder / "checkpoint-10")) == before
    assert rescore(folder, text, tmp_path / "log", 10).steps == ()
    assert fingerprint("somebody/model") is None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_refused(
    checkpoints: Path, text: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(checkpoints, folder)
    path = folder / "checkpoint-10" / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LogError, match="checkpoint-10: its tokenizer cannot be loaded"):
        rescore(folder, text, tmp_path / "log", 10)
    assert not (tmp_path / "log").exists()


def test_text_of_other_tokens(checkpoints: Path, tmp_path: Path) -> None:
    vocab = [(i, f"t{i}", b"t%d" % i) for i in range(200)]
    path = tmp_path / "log"
    with LogWriter(path, run=RUN, vocab=vocab) as writer:
        writer.write({"sequence_id": [0], "step": 0, "num_tokens": 3, "prompt_id": ["p"],
                      "prompt_token_ids": pa.array([[5, 6]])}, table="sequences")  # fmt: skip
        writer.write({"step": 0, "sequence_id": [0] * 3, "position": [0, 1, 2],
                      "token_id": [7, 8, 9], "loss": [1.0] * 3}, table="fixed")  # fmt: skip
        writer.finish_step(0, "fixed")
    message = (
        r"log has 200 tokens, .*checkpoint-10 has \d+; the first that differs is 0: 't0' against"
    )
    with pytest.raises(LogError, match=message):
        rescore(checkpoints, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_text_without_prompts(checkpoints: Path, tmp_path: Path) -> None:
    from tests.logs import write_log

    with pytest.raises(LogError, match="sequences/ has no prompt_token_ids, which the models must"):
        rescore(checkpoints, write_log(tmp_path / "log"), tmp_path / "out")
    other = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(LogError, match="lacks sequence_id, prompt_token_ids, token_ids"):
        rescore(checkpoints, other, tmp_path / "out")


def test_the_command(checkpoints: Path, text: Path, tmp_path: Path) -> None:
    done = run_command("rescore", "--text", text,
                       "--student", checkpoints / "checkpoint-10",
                       "--student", checkpoints / "checkpoint-20",
                       "--teacher", checkpoints / "teacher", "-o", tmp_path / "log",
                       "--columns", "log_ratio,jsd", "--alternatives", "2",
                       "--no-contexts")  # fmt: skip
    printed = [
        "Steps 10, 20 scored: 12 sequences, 111 positions each.",
        "Exact losses, of the whole vocabulary in float32, of the same text at each step.",
        str(tmp_path / "log"),
    ]
    assert (done[0], done[1].splitlines(), done[2]) == (0, printed, "")
    log = rocktok.open(tmp_path / "log")
    assert log.columns("fixed")[5:] == ["log_ratio", "jsd"]
    assert log.tables() == ("fixed", "alternatives", "sequences")
    again = run_command("rescore", "--text", text, "--student", checkpoints / "checkpoint-10",
                        "--teacher", checkpoints / "teacher", "-o", tmp_path / "other",
                        "--columns", "lens")  # fmt: skip
    assert again[0] == 2
    assert again[2].startswith("rocktok: --columns: no column 'lens'; choose from log_ratio, ")
