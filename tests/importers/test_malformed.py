"""Files with anything in the place of anything: one line of ours, never a traceback."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rocktok
from rocktok.errors import RocktokError
from tests.importers.files import authors_records, nemo_files, slime_sample
from tests.importers.test_responses import World, openai_line, sglang_line, vllm_line
from tests.importers.test_texts import prime_line

ODD: tuple[Any, ...] = (None, "x", -1, 1.5, [], {}, True, [[1]], "9", math.nan, 2**40, [None],
                        [1, "a"], {"a": 1}, 2**70, -math.inf)  # fmt: skip


def places(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where values stand in nested dicts and lists, a few of each list."""
    items: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = [(i, content[i]) for i in {0, len(content) // 2, len(content) - 1} if content]
    return [at, *(place for key, value in items for place in places(value, (*at, key)))]


def changed(content: Any, place: tuple[Any, ...], value: Any, *, remove: bool) -> Any:
    content = copy.deepcopy(content)
    if not place:
        return value
    within = content
    for key in place[:-1]:
        within = within[key]
    if remove:
        del within[place[-1]]
    else:
        within[place[-1]] = value
    return content


def _import(kind: str, path: Any, output: Path, **options: Any) -> None:
    try:
        rocktok.import_log(kind, path, output, **options)
    except RocktokError as error:
        assert "\n" not in str(error)
        assert not output.exists()


how = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@how
@given(data=st.data())
@pytest.mark.parametrize("kind", ["slime", "rock-token", "nemo-rl"])
def test_pt_files(kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("pt")
    path = folder / "a_1.pt"
    content: Any
    if kind == "slime":
        rng = np.random.default_rng(0)
        content = {"rollout_id": 1, "samples": [slime_sample(rng, [1, 2], 4) for _ in range(2)]}
    elif kind == "rock-token":
        content = {"student_id": "s", "teacher_id": "t", "vocab_size": 500,
                   "frequencies": torch.bincount(torch.tensor(
                       [r["token_id"] for r in authors_records(40)]), minlength=500),
                   "occurrences": authors_records(40)}  # fmt: skip
    else:
        content = nemo_files(folder / "d", 1, top_k=False)["tokens"]
        path = folder / "opd_token_stats_step1.pt"
    place = data.draw(st.sampled_from(places(content)))
    value = data.draw(st.sampled_from(ODD))
    torch.save(changed(content, place, value, remove=data.draw(st.booleans())), path)
    _import(kind, path, folder / "log")


@how
@given(data=st.data())
@pytest.mark.parametrize("kind", ["vllm", "sglang", "openai", "prime-rl"])
def test_json_lines(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    world = World()
    start = {"num_prompt_tokens": len(world.texts[0][0])}
    if kind == "prime-rl":
        lines: list[Any] = [prime_line()]
    elif kind == "vllm":
        lines = [{**vllm_line(world, 0, 0, 2), **start}, vllm_line(world, 0, 1, 2)]
    elif kind == "sglang":
        lines = [{**sglang_line(world, 0, 0, 2), **start}, sglang_line(world, 0, 1, 2)]
    else:
        lines = [openai_line(world, 0, who, echo=bool(who), chat=not who, k=2) for who in (0, 1)]
    number = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.sampled_from(places(lines[number])))
    value = data.draw(st.sampled_from(ODD))
    lines[number] = changed(lines[number], place, value, remove=data.draw(st.booleans()))
    files = []
    for name, line in enumerate(lines):
        files.append(folder / f"{name}.jsonl")
        files[-1].write_text(json.dumps(line) + "\n")
    options = {"teacher_files": files[1:]} if len(files) > 1 else {}
    _import(kind, files[0], folder / "log", **options)
