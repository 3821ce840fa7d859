"""Gradient sums in the training process: against autograd, and whole whatever the batches."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor

import rocktok
from rocktok.errors import HookError, RocktokWarning
from rocktok.hashing import sketch
from rocktok.hooks import GradientSums, Recorder, token_statistics
from rocktok.hooks.gradient_request import GradientRequest, gradient_request
from rocktok.hooks.statistics import compiled, tiles
from rocktok.log import load_gradients
from tests.gradient_texts import (
    VOCABULARY,
    Texts,
    make_texts,
    reference,
    score,
    sums_of,
    write_gradients,
)
from tests.hooks.test_statistics import SHAPES, models, peak_bytes
from tests.logs import write_log
from tests.recording import make_recorder, manifest, record_step

TYPES = (0, 3, 4, 11)
EXACT = GradientRequest(types=TYPES)
SKETCH = GradientRequest(sketch_dims=256, seed=5)


class Collector:
    """A sink that keeps every row."""

    def __init__(self, vocabulary: int) -> None:
        self.rows: list[int] = []
        self.parts = [torch.zeros(0, vocabulary)]
        self.norm_N: Tensor | None = None

    def add(self, rows: Sequence[int], gradient_NV: Tensor) -> None:
        self.rows += rows
        self.parts.append(gradient_NV.clone())

    def finish(self, norm_N: Tensor) -> None:
        self.norm_N = norm_N

    def gradients(self) -> Tensor:
        return torch.cat(self.parts)


def statistics(texts: Texts, sink: Any = None, **more: Any) -> dict[str, Tensor]:
    return token_statistics(
        token_ids=torch.from_numpy(np.stack([r.completion_token_ids for r in texts.rollouts])),
        student_logits=texts.student_BKV,
        teacher_logits=texts.teacher_BKV,
        mask=torch.from_numpy(texts.mask()),
        gradients=sink,
        **texts.options,
        **more,
    )


def by_key(columns: dict[str, Any]) -> dict[tuple[int, str, int], Any]:
    keys = zip(columns["half"].tolist(), columns["kind"], columns["token_id"].tolist(), strict=True)
    numbers = (columns[name] for name in ("count", "norm_sum", "square_sum", "vector"))
    return dict(zip(keys, zip(*numbers, strict=True), strict=True))


def assert_sums(got: dict[Any, Any], expected: dict[Any, Any]) -> None:
    """Float32 vectors against float64 ones: error relative to the sum of the norms."""
    assert got.keys() == expected.keys()
    for key, (count, norms, squares, vector) in expected.items():
        assert got[key][0] == count, key
        assert got[key][1] == pytest.approx(norms, rel=1e-5), key
        assert got[key][2] == pytest.approx(squares, rel=1e-5), key
        assert np.abs(got[key][3] - vector).max() <= 1e-5 * norms, key


# --- the gradient itself -----------------------------------------------------------------------


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_rows_are_autograds(options: dict[str, float]) -> None:
    texts = make_texts(4, **options)
    sink = Collector(VOCABULARY)
    found = statistics(texts, sink)
    expected_NV = texts.gradients()
    assert sink.rows == list(range(len(expected_NV)))
    scale_N1 = np.linalg.norm(expected_NV, axis=1, keepdims=True)
    assert np.abs((np.asarray(sink.gradients()) - expected_NV) / scale_N1).max() < 1e-5
    assert sink.norm_N is not None and torch.equal(sink.norm_N, found["grad_norm"])
    torch.testing.assert_close(sink.gradients().norm(dim=-1), found["grad_norm"], rtol=2e-6, atol=0)


def test_rows_from_heads_are_autograds_too() -> None:
    given = models(3)
    tokens = torch.arange(15).reshape(3, 5)
    sink = Collector(97)
    with patch.object(tiles, "PROJECTED_ROWS", 4), patch.object(tiles, "block_rows", lambda *_: 3):
        token_statistics(token_ids=tokens, **given, temperature=0.7, gradients=sink)
    raw, other = (
        given[f"{name}_hidden"].double() @ given[f"{name}_head"].double().T + given[f"{name}_bias"]
        for name in ("student", "teacher")
    )
    raw.requires_grad_()
    logp, logq = (raw / 0.7).log_softmax(-1), (other / 0.7).log_softmax(-1)
    (expected,) = torch.autograd.grad((logp.exp() * (logp - logq)).sum(), raw)
    assert sink.rows == list(range(15))
    torch.testing.assert_close(
        sink.gradients().double(), expected.reshape(15, 97), rtol=1e-4, atol=1e-6
    )


def test_statistics_are_the_same_bits_with_and_without() -> None:
    texts = make_texts(6, student_softcap=20.0)
    alone, beside = statistics(texts), statistics(texts, Collector(VOCABULARY))
    assert alone.keys() == beside.keys()
    assert all(torch.equal(alone[name], beside[name]) for name in alone)
    assert set(statistics(texts, Collector(VOCABULARY), columns=["loss"])) == {"loss"}


@pytest.mark.parametrize("passes", [1, 2], ids=["compiled", "operations"])
def test_excluded_tokens_add_nothing_and_infinite_losses_are_zero_rows(
    passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if passes == 2:
        monkeypatch.setattr(compiled, "usable", lambda *_: False)
    texts = make_texts(4)
    texts.student_BKV[..., 250:] = texts.teacher_BKV[..., 250:] = -math.inf
    sink = Collector(VOCABULARY)
    statistics(texts, sink)
    count = len(texts.tokens())
    # By PyTorch's operations each row comes twice: in the first pass nothing is known of it.
    assert sink.rows == [*range(count)] * passes
    got = sink.gradients()
    assert passes == 1 or not got[:count].any()
    kept = Texts(
        texts.rollouts, texts.student_BKV[..., :250], texts.teacher_BKV[..., :250], texts.options
    )
    expected = kept.gradients()
    assert np.abs(np.asarray(got[-count:, :250]) - expected).max() < 1e-6
    assert got[:, 250:].abs().max() < 1e-18
    texts.student_BKV[0, 0, 260] = 1.0
    again = Collector(VOCABULARY)
    losses = statistics(texts, again)["loss"]
    infinite = losses.isinf().nonzero().squeeze(1).tolist()
    assert len(infinite) == int(texts.mask()[0, 0])
    assert again.gradients().isfinite().all()


# --- sums --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", SHAPES[:1] + SHAPES[-1:], ids=str)
def test_sums_are_those_of_a_dense_reference(options: dict[str, float]) -> None:
    texts = make_texts(**options)
    columns = sums_of(texts, EXACT).columns()
    assert_sums(by_key(columns), reference(texts, TYPES))
    assert set(columns["half"]) == {0, 1}
    assert set(columns["vocab_size"]) == {VOCABULARY} and set(columns["sketch_dims"]) == {0}


def test_sketches_are_those_of_the_dense_reference() -> None:
    texts = make_texts()
    columns = sums_of(texts, SKETCH).columns()
    dense = reference(texts, range(12), seed=5)
    expected = {
        key: (*numbers, sketch(vector[None], 256, seed=5)[0])
        for key, (*numbers, vector) in dense.items()
    }
    assert_sums(by_key(columns), expected)
    assert columns["vector"].shape[1] == 256
    assert set(columns["sketch_dims"]) == {256} and set(columns["seed"]) == {5}


@pytest.mark.parametrize("request_", [EXACT, SKETCH], ids=["exact", "sketch"])
@pytest.mark.parametrize("batch", [1, 3, 12])
def test_batches_do_not_matter(request_: GradientRequest, batch: int) -> None:
    texts = make_texts()
    one, other = (by_key(sums_of(texts, request_, batch=b).columns()) for b in (5, batch))
    assert_sums(one, other)


@pytest.mark.parametrize("request_", [EXACT, SKETCH], ids=["exact", "sketch"])
def test_ranks_merge_to_what_one_rank_has(tmp_path: Path, request_: GradientRequest) -> None:
    texts = make_texts(13)
    write_gradients(tmp_path / "one", sums_of(texts, request_).columns())
    identity: dict[str, Any] = {}
    for rank, (start, stop) in enumerate([(0, 3), (3, 4), (4, 13)]):
        columns = sums_of(texts.part(slice(start, stop)), request_, texts.rollouts).columns()
        write_gradients(tmp_path / "three", columns, rank=rank, world_size=3, **identity)
        run = json.loads((tmp_path / "three/run.json").read_text())
        identity = {"attempt": 0, "run_id": run["run_id"]}
    one, three = (load_gradients(rocktok.open(tmp_path / name)) for name in ("one", "three"))
    assert one.complete and three.complete
    for name in ("token_T", "count_HT", "count_H"):
        assert np.array_equal(getattr(one, name), getattr(three, name)), name
    for name in ("norm_HT", "square_HT", "norm_H", "square_H"):
        np.testing.assert_allclose(getattr(one, name), getattr(three, name), rtol=1e-12)
    for name in ("vector_HTW", "global_HW", "balanced_HW"):
        np.testing.assert_allclose(getattr(one, name), getattr(three, name), rtol=0, atol=1e-5)


def test_the_halves_together_are_the_whole() -> None:
    texts = make_texts()
    got = by_key(sums_of(texts, GradientRequest(types=tuple(range(12)))).columns())
    for half in (0, 1):
        typed = [row for (h, kind, _), row in got.items() if (h, kind) == (half, "type")]
        total = got[half, "global", -1]
        assert sum(row[0] for row in typed) == total[0]
        assert sum(row[1] for row in typed) == pytest.approx(total[1], rel=1e-12)
        np.testing.assert_allclose(sum(row[3] for row in typed), total[3], atol=1e-5)


@pytest.mark.parametrize("request_", [EXACT, SKETCH], ids=["exact", "sketch"])
def test_threads_do_not_change_a_bit(request_: GradientRequest) -> None:
    texts = make_texts()
    before, found = torch.get_num_threads(), []
    with patch.object(tiles, "block_rows", lambda *_: 2):
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found.append(sums_of(texts, request_).columns()["vector"])
        finally:
            torch.set_num_threads(before)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_autocast_and_reduced_precision_do_not_matter() -> None:
    texts = make_texts()
    expected = reference(texts, TYPES)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert_sums(by_key(sums_of(texts, EXACT).columns()), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_types_that_do_not_occur_take_no_room() -> None:
    sums = sums_of(make_texts(), GradientRequest(types=(3, 200, 201)))
    assert set(sums.columns()["token_id"].tolist()) == {-1, 3}
    empty = GradientSums(EXACT, [], make_texts().rollouts, vocabulary=VOCABULARY)
    assert all(len(values) == 0 for values in empty.columns().values())


# --- what goes wrong ---------------------------------------------------------------------------


def test_a_pass_that_is_missing_is_told() -> None:
    texts = make_texts()
    sums = GradientSums(EXACT, texts.rollouts, texts.rollouts, vocabulary=VOCABULARY)
    part = texts.part(slice(0, 4))
    score(sums, part)
    whole = len(texts.tokens())
    with pytest.raises(RuntimeError, match=f"{len(part.tokens())} of {whole} positions were scor"):
        sums.columns()


def test_infinite_gradients_are_told() -> None:
    texts = make_texts()
    texts.teacher_BKV[3, :, 7] = -math.inf
    with pytest.raises(RuntimeError, match="a gradient is NaN or infinite"):
        sums_of(texts, EXACT).columns()


def test_sums_that_fail_leave_the_statistics_alone() -> None:
    texts = make_texts(2)
    sums = GradientSums(EXACT, texts.rollouts, texts.rollouts, vocabulary=VOCABULARY + 1)
    got = score(sums, texts)
    assert torch.equal(got["loss"], statistics(texts)["loss"])
    with pytest.raises(RuntimeError, match="the logits are 300 wide, the run says 301"):
        sums.columns()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_sink_arrives_on_any_number_of_threads(threads: int) -> None:
    class Broken(Collector):
        def add(self, rows: Sequence[int], gradient_NV: Tensor) -> None:
            if 6 in rows:
                raise ZeroDivisionError

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with (
            patch.object(tiles, "block_rows", lambda *_: 2),
            pytest.raises(ZeroDivisionError),
        ):
            statistics(make_texts(4), Broken(VOCABULARY))
    finally:
        torch.set_num_threads(before)


def test_nothing_is_left_for_autograd() -> None:
    texts = make_texts(4)
    texts.student_BKV.requires_grad_()
    sums = sums_of(texts, EXACT)
    assert texts.student_BKV.grad is None and torch.is_grad_enabled()
    assert not sums._sums_SW.requires_grad


# --- memory ------------------------------------------------------------------------------------


def big_texts(sequences: int, vocabulary: int) -> Texts:
    texts = make_texts(sequences)
    shape = sequences, texts.mask().shape[1], vocabulary
    return Texts(texts.rollouts, torch.randn(shape), torch.randn(shape), {})


@pytest.mark.parametrize("request_", [EXACT, SKETCH], ids=["exact", "sketch"])
def test_memory_is_the_sums_and_two_tiles_whatever_the_number_of_positions(
    request_: GradientRequest,
) -> None:
    vocabulary, used = 2000, []
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for sequences in (40, 160):
            texts = big_texts(sequences, vocabulary)
            texts.options["student_softcap"] = 20.0
            made: list[GradientSums] = []

            def once(texts: Texts = texts, made: list[GradientSums] = made) -> None:
                made.append(
                    GradientSums(request_, texts.rollouts, texts.rollouts, vocabulary=vocabulary)
                )
                score(made[0], texts)

            used.append(peak_bytes(once) - 4 * made[0]._sums_SW.numel())
    finally:
        torch.set_num_threads(threads)
    assert max(used) < 2 * tiles.TILE_ROWS * vocabulary * 4
    # A thousand positions more: their (N,) columns grow, but by less than a row of logits each.
    assert 0 <= used[1] - used[0] < 1000 * 200


@pytest.mark.parametrize(("request_", "width"), [(EXACT, VOCABULARY), (SKETCH, 256)])
def test_sums_are_types_and_two_by_width_for_each_half(
    request_: GradientRequest, width: int
) -> None:
    texts = make_texts()
    sums = GradientSums(request_, texts.rollouts, texts.rollouts, vocabulary=VOCABULARY)
    types = len(request_.types) or len(np.unique(texts.tokens()))
    assert sums._sums_SW.dtype == torch.float32
    assert sums._sums_SW.numel() <= 2 * (types + 2) * width


# --- the request -------------------------------------------------------------------------------


def detect_file(tmp_path: Path) -> tuple[Path, list[int]]:
    result = rocktok.detect(rocktok.open(write_log(tmp_path / "log")), context="off", top_k=3)
    path = tmp_path / "rocks.json"
    path.write_text(result.to_json())
    return path, [row["token_id"] for row in result.rocks]


def test_types_come_from_ids_or_from_a_file_of_detect(tmp_path: Path) -> None:
    assert gradient_request(None, None, 0, 9) is None
    given = gradient_request(np.array([5, 3, 5]), None, 2, 9)
    assert given == GradientRequest(types=(3, 5), seed=2)
    path, rocks = detect_file(tmp_path)
    for name in (path, str(path)):
        assert gradient_request(name, None, 0, 9) == GradientRequest(types=tuple(sorted(rocks)))
    assert gradient_request(None, 512, 0, 9) == GradientRequest(sketch_dims=512)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_types": [4, -1]}, "gradient_types holds -1, which is no token id"),
        ({"gradient_types": [4, 2.0]}, "gradient_types holds 2.0, which is no token id"),
        ({"gradient_types": [True]}, "gradient_types holds True, which is no token id"),
        ({"gradient_types": []}, "gradient_types is empty; give token ids, or leave it out"),
        ({"gradient_types": 7}, "gradient_types must be token ids or a path, not 7"),
        (
            {"gradient_types": [1], "gradient_sketch": 512},
            "gradient_types and gradient_sketch are both given; exact vectors of chosen types or "
            "sketches of all types, not both",
        ),
        ({"gradient_sketch": 100}, "gradient_sketch must be an integer of at least 256, not 100"),
        ({"gradient_sketch": 512.0}, "gradient_sketch must be an integer of at least 256, not 51"),
        (
            {"gradient_sketch": 512, "gradient_seed": "a"},
            "gradient_seed must be an integer of 64 bits, not 'a'",
        ),
        (
            {"gradient_types": [1], "fixed_sequences": 0},
            "gradient sums are taken on fixed text, whose counts are known; fixed_sequences must",
        ),
        (
            {"gradient_types": "no/such.json"},
            "gradient_types: no/such.json: cannot be read (No such file or directory); give what "
            "`rocktok detect LOG --format json -o FILE` writes; or give token ids",
        ),
    ],
)
def test_arguments_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HookError) as caught:
        Recorder("x", **options)
    assert str(caught.value).startswith(f"Recorder: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[1]", "is no result of `rocktok detect`"),
        ('{"schema": "rocktok.info/1", "tokens": []}', "is no result of `rocktok detect`"),
        ('{"schema": "rocktok.detect/1", "tokens": [{"token_id": 1}]}', "is no result of"),
        (
            '{"schema": "rocktok.detect/1", "tokens": [{"token_id": 1, "is_rock": false}]}',
            "holds no rocks",
        ),
    ],
)
def test_files_that_are_no_result_of_detect(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rocks.json"
    path.write_text(content)
    with pytest.raises(HookError) as caught:
        Recorder("x", gradient_types=path)
    assert str(caught.value).startswith(f"Recorder: gradient_types: {path}: {message}")
    assert "FILE` writes; or give token ids" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "vocabulary", "message"),
    [
        (
            {"gradient_types": [3, 9]},
            9,
            "Recorder: gradient_types holds 9, outside the vocabulary of 9; were these types found "
            "in another model's log?",
        ),
        (
            {"gradient_sketch": 4096},
            4096,
            "Recorder: gradient_sketch is 4096, no less than the vocabulary of 4096, so that "
            "nothing is saved; give fewer dimensions, or gradient_types",
        ),
        (
            {"gradient_types": range(8000)},
            151_936,
            "Recorder: gradient_types holds 8000 types, whose sums over a vocabulary of 151936 "
            "take 9.7 GB; give at most 7065, or gradient_sketch",
        ),
    ],
)
def test_the_start_refuses_what_the_vocabulary_does_not_allow(
    tmp_path: Path, options: dict[str, Any], vocabulary: int, message: str
) -> None:
    recorder = make_recorder(tmp_path / "log", **options)
    with pytest.raises(HookError) as caught:
        recorder.start(run={"vocab_size": vocabulary})
    assert str(caught.value) == message
    assert not (tmp_path / "log").exists()


# --- the recorder ------------------------------------------------------------------------------


def test_the_recorder_writes_them(tmp_path: Path) -> None:
    texts = make_texts()
    recorder = make_recorder(tmp_path, gradient_types=TYPES)
    recorder.start(run={"vocab_size": VOCABULARY})
    assert recorder.gradients == EXACT
    record_step(recorder, 0)
    recorder.record_gradients(0, sums_of(texts, recorder.gradients))
    recorder.finish_step(0, table="gradients")
    recorder.close()
    assert manifest(tmp_path)["steps"] == {"rollout": [0], "fixed": [], "gradients": [0]}
    got = load_gradients(rocktok.open(tmp_path))
    expected = reference(texts, TYPES)
    assert (got.step, got.vocab_size, got.sketch_dims, got.seed) == (0, VOCABULARY, 0, 0)
    assert got.token_T.tolist() == list(TYPES)
    for half in (0, 1):
        for place, token in enumerate(TYPES):
            count, _, _, vector = expected.get((half, "type", token), (0, 0, 0, 0))
            assert got.count_HT[half, place] == count
            assert np.abs(got.vector_HTW[half, place] - vector).max() < 1e-4


def test_sums_that_cannot_be_written_drop_the_step_of_gradients_alone(tmp_path: Path) -> None:
    texts = make_texts()
    recorder = make_recorder(tmp_path, gradient_types=TYPES)
    recorder.start(run={"vocab_size": VOCABULARY})
    record_step(recorder, 0)
    sums = GradientSums(EXACT, texts.rollouts, texts.rollouts, vocabulary=VOCABULARY)
    recorder.record_gradients(0, sums)
    with pytest.warns(
        RocktokWarning, match="step 0 of gradients was not recorded: RuntimeError: 0"
    ):
        recorder.finish_step(0, table="gradients")
    recorder.close()
    assert manifest(tmp_path)["steps"] == {"rollout": [0], "fixed": []}
    log = rocktok.open(tmp_path)
    assert log.incomplete_steps("gradients") == [0]
    assert log.complete_steps("rollout") == [0]


def test_without_the_arguments_a_log_knows_nothing_of_gradients(tmp_path: Path) -> None:
    recorder = make_recorder(tmp_path)
    recorder.start(run={"vocab_size": VOCABULARY})
    record_step(recorder, 0)
    recorder.close()
    assert recorder.gradients is None
    assert not (tmp_path / "gradients").exists()
    assert manifest(tmp_path)["steps"] == {"rollout": [0], "fixed": []}
