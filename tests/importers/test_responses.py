"""Saved responses of vLLM, SGLang and OpenAI-style servers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocktok
from rocktok.errors import LogError, UsageError
from tests.importers.files import distributions, texts, vllm_scored, write_lines
from tests.importers.reading import close, rows, sequences

SIZE = 60


class World:
    """Texts, and whole distributions of both models at each of their places."""

    def __init__(self, seed: int = 0) -> None:
        self.texts = texts(seed)
        self.models = [
            distributions(len(prompt) + len(answer), SIZE, seed + number)
            for number, (prompt, answer) in enumerate(self.texts)
        ]

    def ids(self, number: int) -> list[int]:
        prompt, answer = self.texts[number]
        return [*prompt, *answer]

    def logprobs(self, who: int) -> np.ndarray:
        """Of the tokens of all completions."""
        found = []
        for number, (prompt, answer) in enumerate(self.texts):
            places = len(prompt) + np.arange(len(answer))
            found.append(self.models[number][who][places, answer])
        return np.concatenate(found)

    @property
    def losses(self) -> np.ndarray:
        found = []
        for number, (prompt, _) in enumerate(self.texts):
            logp, logq = (model[len(prompt) :] for model in self.models[number])
            found.append((np.exp(logp) * (logp - logq)).sum(axis=1))
        return np.concatenate(found)

    @property
    def tokens(self) -> list[int]:
        return [token for _, answer in self.texts for token in answer]


def vllm_line(world: World, number: int, who: int, k: int = 0) -> dict[str, Any]:
    """A text that was scored as a prompt, with one new token."""
    ids = world.ids(number)
    return {
        "id": "cmpl-1", "object": "text_completion", "model": "m",
        "choices": [{
            "index": 0, "text": "x", "finish_reason": "length", "logprobs": None,
            "prompt_logprobs": vllm_scored(ids, world.models[number][who], k),
            "prompt_token_ids": ids, "token_ids": [5],
        }],
        "usage": {"prompt_tokens": len(ids), "completion_tokens": 1},
    }  # fmt: skip


def vllm_files(folder: Path, world: World, k: int = 0) -> tuple[Path, Path]:
    lines: list[list[dict[str, Any]]] = [[], []]
    for number, (prompt, _) in enumerate(world.texts):
        for who in (0, 1):
            lines[who].append(vllm_line(world, number, who, k))
        lines[0][-1] |= {"num_prompt_tokens": len(prompt), "prompt_id": f"p{number}"}
    return tuple(  # type: ignore[return-value]
        write_lines(folder / f"{name}.jsonl", part)
        for name, part in zip(("student", "teacher"), lines, strict=True)
    )


@pytest.mark.parametrize("k", [0, 8, SIZE])
def test_vllm(tmp_path: Path, k: int) -> None:
    world = World()
    student, teacher = vllm_files(tmp_path, world, k)
    done = rocktok.import_log("vllm", student, tmp_path / "log", teacher_files=[teacher])
    found = rows(tmp_path / "log")
    assert found["token_id"].tolist() == world.tokens
    close(found["student_logprob"], world.logprobs(0))
    close(found["teacher_logprob"], world.logprobs(1))
    if k == 0:
        assert done.exactness == "sampled"
        close(found["loss"], world.logprobs(0) - world.logprobs(1))
    else:
        assert done.exactness == "topk"
        close(found["log_ratio"], world.logprobs(0) - world.logprobs(1))
        assert (found["loss"] <= world.losses + 1e-5).all()
    if k == SIZE:
        np.testing.assert_allclose(found["loss"], world.losses, atol=1e-5)
    listed = sequences(tmp_path / "log")
    assert listed["prompt_id"].tolist() == ["p0", "p1", "p2"]
    assert [ids.tolist() for ids in listed["prompt_token_ids"]] == [p for p, _ in world.texts]


def test_vllm_without_ids_of_the_prompt(tmp_path: Path) -> None:
    """The realised token stands first in each entry, whatever its rank."""
    world = World(2)
    student, teacher = vllm_files(tmp_path, world, 3)
    for path in (student, teacher):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            del line["choices"][0]["prompt_token_ids"]
        write_lines(path, lines)
    rocktok.import_log("vllm", student, tmp_path / "log", teacher_files=[teacher])
    assert rows(tmp_path / "log")["token_id"].tolist() == world.tokens


def test_the_students_own_generation(tmp_path: Path) -> None:
    world = World(1)
    _, teacher = vllm_files(tmp_path, world)
    lines = []
    for number, (prompt, answer) in enumerate(world.texts):
        logp = world.models[number][0][len(prompt) + np.arange(len(answer)), answer]
        lines.append({
            "choices": [{
                "finish_reason": "stop", "text": "x", "token_ids": answer,
                "prompt_token_ids": prompt,
                "logprobs": {"tokens": ["x"] * len(answer), "token_logprobs": logp.tolist(),
                             "top_logprobs": None, "text_offset": [0] * len(answer)},
            }],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(answer)},
        })  # fmt: skip
    student = write_lines(tmp_path / "own.jsonl", lines)
    for kind in ("vllm",):
        rocktok.import_log(kind, student, tmp_path / kind, teacher_files=[teacher])
        found = rows(tmp_path / kind)
        close(found["loss"], world.logprobs(0) - world.logprobs(1))
        assert found["token_id"].tolist() == world.tokens
        assert sequences(tmp_path / kind)["finish_reason"].tolist() == ["stop"] * 3


def test_steps_over_the_same_texts_become_fixed(tmp_path: Path) -> None:
    first, second = World(0), World(0)
    second.models = [(q, p) for p, q in second.models]
    files = [vllm_files(tmp_path / f"{step}", world) for step, world in ((5, first), (9, second))]
    rocktok.import_log(
        "vllm", [s for s, _ in files], tmp_path / "log", table="fixed", steps=[5, 9],
        teacher_files=[t for _, t in files],
    )  # fmt: skip
    found = rows(tmp_path / "log", "fixed")
    assert found["step"].unique().tolist() == [5, 9]
    close(found[found["step"] == 5]["loss"], -found[found["step"] == 9]["loss"])


def sglang_line(world: World, number: int, who: int, k: int) -> dict[str, Any]:
    ids, model = world.ids(number), world.models[number][who]
    entries = [[None if i == 0 else float(model[i, t]), t, None] for i, t in enumerate(ids)]
    tops: list[Any] = [None]
    for row in model[1:]:
        order = np.argsort(-row)[:k].tolist()
        tops.append([[float(row[token]), token, None] for token in order])
    meta = {"prompt_tokens": len(ids), "completion_tokens": 1, "input_token_logprobs": entries,
            "finish_reason": {"type": "length", "length": 1},
            "output_token_logprobs": [[-0.5, 7, None]]}  # fmt: skip
    return {"text": "x", "meta_info": {**meta, **({"input_top_logprobs": tops} if k else {})}}


@pytest.mark.parametrize("k", [0, 6])
@pytest.mark.parametrize("own", [False, True])
def test_sglang(tmp_path: Path, k: int, own: bool) -> None:
    world = World(3)
    lines: list[list[dict[str, Any]]] = [[], []]
    for number, (prompt, answer) in enumerate(world.texts):
        for who in (0, 1):
            lines[who].append(sglang_line(world, number, who, k))
        if own:
            meta = lines[0][-1]["meta_info"]
            start = len(prompt)
            meta["output_token_logprobs"] = meta["input_token_logprobs"][start:]
            meta["output_top_logprobs"] = meta.get("input_top_logprobs", [None] * 99)[start:]
            meta["input_token_logprobs"] = meta["input_token_logprobs"][:start]
            meta |= {"prompt_tokens": start, "completion_tokens": len(answer)}
            meta["output_top_logprobs"] = meta["output_top_logprobs"][: len(answer)]
        else:
            lines[0][-1]["num_prompt_tokens"] = len(prompt)
    student, teacher = (write_lines(tmp_path / f"{n}.jsonl", part) for n, part in enumerate(lines))
    done = rocktok.import_log("sglang", student, tmp_path / "log", teacher_files=[teacher])
    found = rows(tmp_path / "log")
    assert found["token_id"].tolist() == world.tokens
    close(found["student_logprob"], world.logprobs(0))
    close(found["teacher_logprob"], world.logprobs(1))
    assert done.exactness == ("topk" if k else "sampled")
    if k:
        assert (found["loss"] <= world.losses + 1e-5).all()


def openai_line(world: World, number: int, who: int, *, echo: bool, chat: bool, k: int) -> Any:
    prompt, answer = world.texts[number]
    ids = world.ids(number) if echo else answer
    model = world.models[number][who][0 if echo else len(prompt) :]
    logprobs: list[Any] = [float(model[i, t]) for i, t in enumerate(ids)]
    if echo:
        logprobs[0] = None
    tops = [
        {f"token_id:{t}": float(row[t]) for t in np.argsort(-row)[:k].tolist()} for row in model
    ]
    tokens = [f"token_id:{t}" for t in ids]
    if chat:
        content = [
            {"token": token, "bytes": [1], "logprob": value,
             "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
            for token, value, top in zip(tokens, logprobs, tops, strict=True)
        ]  # fmt: skip
        listed: dict[str, Any] = {"content": content}
    else:
        listed = {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops if k else None}
    return {"choices": [{"finish_reason": "stop", "logprobs": listed}],
            "usage": {"prompt_tokens": len(ids) if echo else len(prompt),
                      "completion_tokens": 0 if echo else len(answer)}}  # fmt: skip


@pytest.mark.parametrize("k", [0, 6])
@pytest.mark.parametrize("chat", [False, True])
def test_openai(tmp_path: Path, chat: bool, k: int) -> None:
    world = World(4)
    numbers = range(len(world.texts))
    student = write_lines(tmp_path / "s.jsonl", [
        openai_line(world, n, 0, echo=False, chat=chat, k=k) for n in numbers
    ])  # fmt: skip
    teacher = write_lines(tmp_path / "t.jsonl", [
        openai_line(world, n, 1, echo=True, chat=False, k=k) for n in numbers
    ])  # fmt: skip
    done = rocktok.import_log("openai", student, tmp_path / "log", teacher_files=[teacher])
    found = rows(tmp_path / "log")
    assert found["token_id"].tolist() == world.tokens
    close(found["student_logprob"], world.logprobs(0))
    close(found["teacher_logprob"], world.logprobs(1))
    assert done.exactness == ("topk" if k else "sampled")


def test_both_echoed(tmp_path: Path) -> None:
    """What a scoring request generates by itself is left out."""
    world = World(4)
    files = []
    for who in (0, 1):
        lines = []
        for number, (prompt, _) in enumerate(world.texts):
            line = openai_line(world, number, who, echo=True, chat=False, k=0)
            listed = line["choices"][0]["logprobs"]
            listed["tokens"].append("token_id:9")
            listed["token_logprobs"].append(-0.5)
            line["usage"]["completion_tokens"] = 1
            lines.append({**line, **({} if who else {"num_prompt_tokens": len(prompt)})})
        files.append(write_lines(tmp_path / f"{who}.jsonl", lines))
    rocktok.import_log("openai", files[0], tmp_path / "log", teacher_files=[files[1]])
    found = rows(tmp_path / "log")
    assert found["token_id"].tolist() == world.tokens
    close(found["loss"], world.logprobs(0) - world.logprobs(1))


Change = Callable[[list[dict[str, Any]], list[dict[str, Any]]], Any]


def _null(mine: list[dict[str, Any]], _: Any) -> None:
    mine[1]["choices"][0]["prompt_logprobs"][5] = None


def _null_in_prompt(_: Any, theirs: list[dict[str, Any]]) -> None:
    theirs[0]["choices"][0]["prompt_logprobs"][1] = None


def _other_ids(_: Any, theirs: list[dict[str, Any]]) -> None:
    choice = theirs[1]["choices"][0]
    choice["prompt_token_ids"][6] = 59
    choice["prompt_logprobs"][6] = {"59": {"logprob": -1.0}}


def _no_logprob(mine: list[dict[str, Any]], _: Any) -> None:
    mine[0]["choices"][0]["prompt_token_ids"][4] = 61


def _no_start(mine: list[dict[str, Any]], _: Any) -> None:
    del mine[2]["num_prompt_tokens"]


def _shorter(_: Any, theirs: list[dict[str, Any]]) -> None:
    choice = theirs[0]["choices"][0]
    choice["prompt_logprobs"].pop()
    choice["prompt_token_ids"].pop()


def _fewer(_: Any, theirs: list[dict[str, Any]]) -> None:
    theirs.pop()


def _no_responses(mine: list[dict[str, Any]], _: Any) -> None:
    mine[0]["choices"][0].pop("prompt_logprobs")


def _positive(mine: list[dict[str, Any]], _: Any) -> None:
    entry = mine[0]["choices"][0]["prompt_logprobs"][4]
    entry[next(iter(entry))]["logprob"] = 0.7


def _impossible(_: Any, theirs: list[dict[str, Any]]) -> None:
    choice, start = theirs[0]["choices"][0], len(World().texts[0][0])
    entry = choice["prompt_logprobs"][start]
    entry[next(iter(entry))]["logprob"] = -math.inf


def _large_id(mine: list[dict[str, Any]], _: Any) -> None:
    mine[0]["choices"][0]["prompt_token_ids"][0] = 1 << 40


def _large_key(mine: list[dict[str, Any]], _: Any) -> None:
    mine[0]["choices"][0]["prompt_logprobs"][3] |= {str(1 << 40): {"logprob": -9.0}}


def _text(mine: list[dict[str, Any]], _: Any) -> None:
    entry = mine[0]["choices"][0]["prompt_logprobs"][4]
    entry[next(iter(entry))]["logprob"] = "-0.5"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_null, "student.jsonl: line 2: the student's log-probability of place 5 is null; only"),
        (_null_in_prompt, "teacher.jsonl: line 1: the teacher's log-probability of place 1 is"),
        (_impossible, "teacher.jsonl: line 1: token 0: the teacher's log-probability is -inf"),
        (_large_id, "student.jsonl: line 1: prompt_token_ids: 1099511627776 is no token id"),
        (_large_key, "prompt_logprobs of place 3: 1099511627776 is no token id"),
        (_text, "prompt_logprobs of place 4: the log-probability '-0.5' is no number"),
        (_other_ids, "ids of another tokenizer, or another text"),
        (_no_logprob, "place 4 has token 61 by prompt_token_ids, but no logprob of it: ids of"),
        (_no_start, "add num_prompt_tokens"),
        (_shorter, "completion has 5 tokens, the teacher's 4"),
        (_fewer, "student.jsonl: line 3: has no counterpart in"),
        (_no_responses, "has no prompt_logprobs"),
        (_positive, "the student's log-probability is 0.7; it must be"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: Change, said: str) -> None:
    student, teacher = vllm_files(tmp_path, World())
    mine, theirs = (
        [json.loads(line) for line in path.read_text().splitlines()] for path in (student, teacher)
    )
    change(mine, theirs)
    write_lines(student, mine)
    write_lines(teacher, theirs)
    with pytest.raises(LogError) as error:
        rocktok.import_log("vllm", student, tmp_path / "log", teacher_files=[teacher])
    assert said in str(error.value)
    assert not (tmp_path / "log").exists()


def test_a_teacher_is_needed(tmp_path: Path) -> None:
    student, _ = vllm_files(tmp_path, World())
    with pytest.raises(UsageError, match="teacher_files has 0 files for 1 file of the student"):
        rocktok.import_log("vllm", student, tmp_path / "log")


def test_tokens_without_ids(tmp_path: Path) -> None:
    world = World()
    line = openai_line(world, 0, 0, echo=False, chat=True, k=0)
    for entry in line["choices"][0]["logprobs"]["content"]:
        entry["token"] = "x"
    student = write_lines(tmp_path / "s.jsonl", [line])
    teacher = write_lines(tmp_path / "t.jsonl", [openai_line(world, 0, 1, echo=True, chat=False,
                                                             k=0)])  # fmt: skip
    with pytest.raises(LogError, match="has tokens without ids; ask the server for them"):
        rocktok.import_log("openai", student, tmp_path / "log", teacher_files=[teacher])


def test_a_listed_token_that_the_teacher_gives_no_probability(tmp_path: Path) -> None:
    """As where a server masks tokens: the loss would have no end."""
    world = World(1)
    student, teacher = vllm_files(tmp_path, world, 3)
    lines = [
        [json.loads(line) for line in path.read_text().splitlines()] for path in (student, teacher)
    ]
    place = len(world.texts[0][0])
    entries = [own[0]["choices"][0]["prompt_logprobs"][place] for own in lines]
    other = list(entries[0])[-1]
    entries[1][other] = {"logprob": -math.inf}
    write_lines(teacher, lines[1])
    said = rf"^{teacher}: line 1: place {place}: the teacher gives a token that the student lists"
    with pytest.raises(LogError, match=said):
        rocktok.import_log("vllm", student, tmp_path / "log", teacher_files=[teacher])
    assert not (tmp_path / "log").exists()


def test_a_likely_token_with_a_log_probability_above_zero(tmp_path: Path) -> None:
    world = World(1)
    student, teacher = vllm_files(tmp_path, world, 3)
    lines = [json.loads(line) for line in teacher.read_text().splitlines()]
    place = len(world.texts[0][0])
    entry = lines[0]["choices"][0]["prompt_logprobs"][place]
    list(entry.values())[-1]["logprob"] = 1e21
    write_lines(teacher, lines)
    said = rf"place {place}: the teacher has a likely token with the log-probability 1e\+21"
    with pytest.raises(LogError, match=said):
        rocktok.import_log("vllm", student, tmp_path / "log", teacher_files=[teacher])
    assert not (tmp_path / "log").exists()
