"""`rocktok.detect` against its brute-force twin (twin.py) on random small logs.

The logs are written by hand, with pandas, in every shape the format allows: gaps in `position`,
several rollouts a prompt, sequences that one step lacks, ties, zeros and tiny negatives among the
losses, shards and row groups cut anywhere, with and without `sequences/` and `run.json`. Integers,
sets, thresholds and ranks must be equal, sums agree to 1e-9.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import warnings
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest

import rocktok
from rocktok.errors import LogError
from tests import twin
from tests.twin import Row

SIMILARITIES = ("surprisal", "bag", "jaccard", "positional", "embedding")
PARTNERS = ("other-prompt", "other-sequence", "all")
#: The default in every run of the tests, the others among the long ones.
EACH_PARTNERS = [
    PARTNERS[0],
    *(pytest.param(name, marks=pytest.mark.long) for name in PARTNERS[1:]),
]
VOCAB = 48
#: Rows of a small row group: ends within sequences, and well below a step's rows.
SMALL_GROUP = 23


# --- random logs -------------------------------------------------------------------------------


class RandomLog:
    """Rows of a log, as the twin wants them, and a way to write them down.

    Half the text is phrases out of a small pool, so that windows recur; losses belong to the place
    in the text, so that they persist.
    """

    def __init__(
        self,
        seed: int,
        *,
        positions: int = 300,
        tokens: int = 30,
        exactness: str | None = "exact",
        steps: int = 2,
        unpaired: bool = True,
        grid: bool = True,
        max_length: int = 45,
        statistics: bool = False,
    ) -> None:
        self.rng = rng = random.Random(seed)
        self.exactness = exactness
        self.steps = sorted(rng.sample(range(0, 5000), steps))
        self.grid = grid
        self.statistics = statistics
        # Places in a phrase are hard or easy, for good; what is between phrases is in between.
        phrases = [
            [(rng.randrange(tokens), rng.choice([0.1, 0.3, 3.0])) for _ in range(rng.randint(4, 9))]
            for _ in range(rng.randint(2, 4))
        ]
        self.tables: dict[str, list[Row]] = {"fixed": [], "rollout": []}
        self.prompts: dict[int, str] = {}
        ids = itertools.count()
        written = 0
        while written < positions:
            prompt = f"prompt {rng.randrange(10**9):x}"
            text: list[tuple[int, float]] = []
            for _ in range(rng.randint(1, 3)):
                # A further rollout starts as the one before did.
                text = text[: rng.randint(0, len(text))] if text else []
                length = rng.randint(1, max_length)
                while len(text) < length:
                    if rng.random() < 0.5:
                        text += rng.choice(phrases)
                    else:
                        text.append((int(tokens * rng.random() ** 2), 0.5))
                number = next(ids)
                sequence_id = rng.choice([number, (number + 1) << 41, -number - 1])
                self.prompts[sequence_id] = prompt
                written += self.add_sequence(sequence_id, text, unpaired)
        # Rollouts of another text; not of every type, and not always at the first step.
        self.tables["rollout"] = [
            self.row(step, 10**12 + k, p, rng.randrange(tokens), self.loss(1.0))
            for step in self.steps[seed % 2 :]
            for k in range(3)
            for p in range(6)
        ]
        self.prompts |= {10**12 + k: f"prompt of rollout {k}" for k in range(3)}

    def loss(self, scale: float) -> float:
        rng = self.rng
        kind = rng.random()
        if kind < 0.08:
            return 0.0
        if kind < 0.12 and self.exactness == "exact":
            return twin.float32(-1e-4 * rng.random())
        if kind < 0.2 and self.exactness == "sampled":
            return twin.float32(-0.5 * rng.random())
        x = rng.expovariate(1 / scale) + 0.01
        return math.ceil(x * 8) / 8 if self.grid else twin.float32(x)

    def row(self, *required: Any) -> Row:
        if not self.statistics:
            return Row(*required)
        logprobs = [twin.float32(-self.rng.expovariate(1.0)) for _ in range(2)]
        return Row(*required, twin.float32(logprobs[0] - logprobs[1]), *logprobs)

    def add_sequence(self, sequence_id: int, text: list[tuple[int, float]], unpaired: bool) -> int:
        rng = self.rng
        present = list(self.steps)
        if unpaired and rng.random() < 0.15:
            present = rng.sample(self.steps, len(self.steps) - 1)
        position = rng.choice([0, 0, 0, 2])
        for token, difficulty in text:
            for step in present:
                row = self.row(step, sequence_id, position, token, self.loss(difficulty))
                self.tables["fixed"].append(row)
            # Tool output, which is no token of the student, leaves a gap.
            position += 1 if rng.random() < 0.95 else rng.randint(2, 6)
        return len(text)

    def write(self, root: Path, layout: str = "a shard a step", sequences: bool = True) -> Path:
        """The log as somebody's own trainer might write it."""
        rng = random.Random(layout)
        root.mkdir(parents=True)
        if self.exactness is not None:
            run = {
                "schema_version": 1,
                "run_id": "hand-written",
                "vocab_size": VOCAB,
                "loss": {"divergence": "reverse_kl", "exactness": self.exactness},
            }
            (root / "run.json").write_text(json.dumps(run))
        for table, rows in self.tables.items():
            frame = pd.DataFrame(sorted(rows), columns=Row._fields).dropna(axis="columns")
            if not len(frame):
                continue
            if layout == "a shard a step":
                parts = [part for _, part in frame.groupby("step")]
            elif layout == "one shard, small row groups":
                parts = [frame]
            else:
                # Whole sequences dealt out to shards that hold several steps.
                shard_of = {key: rng.randrange(5) for key in set(self.prompts)}
                if layout == "steps apart in shards":
                    shards = frame["sequence_id"].map(shard_of) * 10 + frame["step"].rank(
                        method="dense"
                    )
                else:
                    assert layout == "sequences dealt out"
                    shards = frame["sequence_id"].map(shard_of)
                parts = [part for _, part in frame.groupby(shards)]
            for number, part in enumerate(parts):
                folder = root / table / f"step-{part['step'].min():08d}"
                folder.mkdir(parents=True, exist_ok=True)
                small = layout == "one shard, small row groups"
                types = (
                    {"loss": "float32", "token_id": "int32", "position": "int32", "step": "int32"}
                    if layout != "sequences dealt out"
                    else {"token_id": "uint16", "step": "float64"}
                )
                part.astype(types).to_parquet(
                    folder / f"part-{number}.parquet",
                    index=False,
                    row_group_size=SMALL_GROUP if small else None,
                )
        if sequences:
            frame = pd.DataFrame(
                [
                    {"sequence_id": key, "step": 0, "num_tokens": 100, "prompt_id": prompt}
                    for key, prompt in sorted(self.prompts.items())
                ]
            )
            (root / "sequences").mkdir()
            frame.iloc[::2].to_parquet(root / "sequences" / "even.parquet", index=False)
            frame.iloc[1::2].to_parquet(root / "sequences" / "odd.parquet", index=False)
        return root


LAYOUTS = (
    "a shard a step",
    "one shard, small row groups",
    "sequences dealt out",
    "steps apart in shards",
)


# --- comparing ---------------------------------------------------------------------------------

SUMS = {
    "mean_loss",
    "rock_score",
    "rollout_rock_score",
    "mean_log_ratio",
    "student_probability",
    "teacher_probability",
    "loss_share",
    "coverage",
    "retained_loss",
    "context_rock_score",
    "loss",
    "ratio",
    "persistence_lift",
    "ccr",
    "median",
    "p10",
    "p90",
}


def assert_same(found: Any, expected: Any, where: str) -> None:
    """The twin's answer, everything in it: sums to 1e-9, the rest exactly."""
    if isinstance(expected, dict):
        missing = set(expected) - set(found)
        assert not missing, f"{where}: no {missing}"
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), f"{where}: {len(found)} rows, not {len(expected)}"
        for k, value in enumerate(expected):
            assert_same(found[k], value, f"{where}[{k}]")
    elif isinstance(expected, set):
        assert sorted(found) == sorted(expected), f"{where}: {found}, not {expected}"
    elif where.rpartition(".")[2] in SUMS and expected is not None:
        assert found is not None, f"{where}: null, not {expected}"
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), where
    else:
        assert found == expected, f"{where}: {found}, not {expected}"
        assert isinstance(found, bool) == isinstance(expected, bool), where


def run(path: Path, **options: Any) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # What the twin computes is the paper's rule.
        result = rocktok.detect(rocktok.open(str(path)), **{"rule": "top-k", **options})
    return json.loads(result.to_json())


def check(log: RandomLog, path: Path, sequences: bool = True, **options: Any) -> dict[str, Any]:
    """`detect` and the twin agree; returns the twin's answer."""
    if options.get("similarity") == "embedding":
        generator = np.random.default_rng(5)
        options["embeddings"] = generator.standard_normal((VOCAB, 6)).astype(np.float32)
    prompts = log.prompts if sequences else None
    try:
        expected = twin.detect(log.tables, prompts, log.exactness, **options)
    except ValueError:
        with pytest.raises(LogError, match="zero or less"):
            run(path, **options)
        return {}
    assert_same(run(path, **options), expected, "result")
    return expected


# --- the twin itself ---------------------------------------------------------------------------


def test_the_twins_numbers_by_hand() -> None:
    assert twin.mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # splitmix64's first, from 0
    assert twin.position_hash(0, -1, 0) != twin.position_hash(0, 1, 0)
    assert twin.quantile([5.0, 1.0, 4.0, 2.0, 3.0], 0.8) == 4.0
    assert twin.quantile([float(x) for x in range(10)], 0.1) == 0.0
    assert twin.quantile([float(x) for x in range(100)], 0.29) == 28.0  # 0.29 * 100 < 29 in floats
    text = {0: 7, 1: 8, 4: 9, 5: 7}
    assert twin.window(text, 4, 3) == ((-3, 8), (1, 7))
    assert twin.counts(twin.window(text, 4, 4)) == {7: 2, 8: 1}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("jaccard", 2 / 4),
        ("positional", 2 / 4),
        ("bag", 3 / 6),  # {1: 1, 2: 2, 3: 1} and {1: 1, 2: 1, 4: 2}
        ("surprisal", 3 / 6),  # every type once among four: all weights are ln 4
    ],
)
def test_the_twins_similarities_by_hand(kind: str, expected: float) -> None:
    similarity = twin.Similarity(kind, 2, 0.5, {1: 1, 2: 1, 3: 1, 4: 1}, None)
    a = ((-2, 1), (-1, 2), (1, 2), (2, 3))
    b = ((-2, 1), (-1, 2), (1, 4), (2, 4))
    assert similarity.value(a, b) == pytest.approx(expected)
    assert similarity.value(a, ()) is None


def test_the_twin_by_hand() -> None:
    """Type 9 is hard twice in the same three words for two prompts, and once elsewhere."""
    rows = []
    texts = {1: [5, 9, 6, 0], 2: [5, 9, 6, 1], 3: [5, 9, 6, 2], 4: [3, 9, 4, 7]}
    for step, hard in ((0, 4.0), (10, 2.0)):
        for sequence, tokens in texts.items():
            for position, token in enumerate(tokens):
                rows.append(Row(step, sequence, position, token, hard if token == 9 else 0.25))
    prompts = {1: "a", 2: "a", 3: "b", 4: "c"}
    options: dict[str, Any] = {"window": 1, "eta": 0.5, "similarity": "bag", "all_types": True}
    answer = twin.detect({"fixed": rows}, prompts, **options)
    nine = answer["tokens"][0]
    # Partners of sequence 1: 3 (alike) and 4 (not): 1/2. Of 3: 1, 2, 4: 2/3. Of 4: none alike.
    assert answer["thresholds"] == {
        "tau_pre": 4.0,
        "tau_post": 2.0,
        "tau_change": None,
        "ratio": 0.5,
        "gamma": 0.5,
    }
    assert (nine["token_id"], nine["persistent"], nine["retained"]) == (9, 4, 3)
    assert (nine["rock_score"], nine["ccr"], nine["context_rock_score"]) == (8.0, 0.75, 6.0)
    assert nine["persistence_lift"] == 1.0
    assert answer["totals"]["loss"] == 8.0 + 12 * 0.25
    assert answer["totals"]["retained"] == 3
    assert [t["is_rock"] for t in answer["tokens"]] == [True] + [False] * 8
    assert answer["density"]["type"] == {"median": 0.25, "p10": 0.25, "p90": 0.25}
    assert answer["density"]["retained"] == {"median": 0.25, "p10": 0.0, "p90": 0.25}
    # The paper's letter counts the other rollout of the prompt too: 2/3 for sequences 1 to 3.
    strict = twin.detect({"fixed": rows}, prompts, **{**options, "eta": 0.6})
    letter = twin.detect({"fixed": rows}, prompts, partners="all", **{**options, "eta": 0.6})
    assert strict["tokens"][0]["retained"] == 1
    assert letter["tokens"][0]["retained"] == 3


# --- detect against the twin -------------------------------------------------------------------


#: Rules of what is hard. Which one is no matter of the similarity, so that numbers take turns.
PERSISTENCE = ("high", "recalcitrant")


@pytest.mark.parametrize("partners", EACH_PARTNERS)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_number_for_eta(tmp_path: Path, similarity: str, partners: str) -> None:
    seed = hash_of("eta", similarity, partners)
    rng = random.Random(seed)
    log = RandomLog(seed, positions=150, steps=rng.choice([2, 3]))
    path = log.write(tmp_path / "log", rng.choice(LAYOUTS))
    retained = dict.fromkeys(PERSISTENCE, 0)
    for number, (eta, gamma) in enumerate(
        ((0.0, 0.2), (0.1, 0.3), (0.25, 0.5), (1 / 3, 0.4), (0.5, 0.2), (1.0, 0.1))
    ):
        persistence = PERSISTENCE[number % 2]
        answer = check(
            log,
            path,
            similarity=similarity,
            partners=partners,
            persistence=persistence,
            eta=eta,
            gamma=gamma,
            quantile_pre=rng.choice([0.5, 0.8]),
            window=rng.choice([1, 2, 4, 8]),
            all_types=True,
        )
        retained[persistence] += sum(token["retained"] for token in answer["tokens"])
    assert all(retained.values())  # or the test would show little


@pytest.mark.long
@pytest.mark.parametrize("partners", PARTNERS)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_eta_from_the_null(tmp_path: Path, similarity: str, partners: str) -> None:
    seed = hash_of("auto", similarity, partners)
    rng = random.Random(seed)
    log = RandomLog(seed, positions=420, tokens=VOCAB, grid=rng.random() < 0.5)
    path = log.write(tmp_path / "log", rng.choice(LAYOUTS))
    thresholds = {"quantile_pre": 0.5, "quantile_post": 0.5}
    retained = 0
    for window, gamma, persistence, options in (
        (2, 0.5, "high", {}),
        (3, 0.4, "recalcitrant", thresholds),
        (1, 0.9, "high", thresholds),
    ):
        answer = check(
            log,
            path,
            similarity=similarity,
            partners=partners,
            persistence=persistence,
            gamma=gamma,
            window=window,
            all_types=True,
            seed=rng.randrange(3),
            **options,
        )
        retained += sum(token["retained"] or 0 for token in answer["tokens"])
    assert retained > 0


@pytest.mark.long
def test_every_distance_of_the_null(tmp_path: Path) -> None:
    """The null falls back from 2w to w to w // 2, and gives up below 200 positions."""
    distances: set[Any] = set()
    flags: set[str] = set()
    for seed, (positions, window) in enumerate([(330, 8), (600, 8), (230, 4), (200, 1), (420, 5)]):
        log = RandomLog(seed, positions=positions, tokens=20)
        path = log.write(tmp_path / str(seed), LAYOUTS[seed % len(LAYOUTS)])
        answer = check(log, path, window=window, all_types=True, quantile_pre=0.6)
        for token in answer["tokens"]:
            if token["null_distance"] is not None:
                distances.add(
                    ("w//2", "w", "2w")[
                        [window // 2, window, 2 * window].index(token["null_distance"])
                    ]
                )
            flags |= token["flags"]
    assert distances == {"2w", "w", "w//2"}
    assert {"low_power", "null_scarce"} <= flags


@pytest.mark.long
def test_a_thousand_draws(tmp_path: Path) -> None:
    """Where more than 1,000 positions qualify, the first 1,000 by hash are the draws."""
    for seed in (0, 1, 17):
        log = RandomLog(seed, positions=1700, tokens=VOCAB, grid=False)
        path = log.write(tmp_path / str(seed))
        answer = check(log, path, window=3, gamma=0.3, all_types=True, seed=seed)
        assert answer["totals"]["retained"] > 0


@pytest.mark.long
def test_types_that_leave_few_positions_free(tmp_path: Path) -> None:
    """In 30,000 positions, types so frequent that the null must look far for its draws, or near."""
    log = RandomLog(21, positions=0)
    rng = np.random.default_rng(21)
    share = np.array([0.13, 0.22, 0.33, *np.full(10, 0.032)])
    text = rng.choice(len(share), p=share, size=(100, 300))
    text[::7, 40:52] = text[0, 40:52]  # something that recurs
    hard = rng.random(text.shape) < 0.006
    hard[::7, 40:52] |= rng.random(text[::7, 40:52].shape) < 0.6
    log.steps = [0, 10]
    log.tables["fixed"] = [
        Row(step, 3 * s + 1, t, int(text[s, t]), 8.0 - step / 10 if hard[s, t] else 0.125)
        for step in log.steps
        for s in range(100)
        for t in range(300)
    ]
    log.tables["rollout"] = []
    log.prompts = {3 * s + 1: f"prompt {s // 2}" for s in range(100)}
    path = log.write(tmp_path / "log", "sequences dealt out")
    answer = check(log, path, tau_pre=5.0, tau_post=5.0, all_types=True)
    distances = {token["token_id"]: token["null_distance"] for token in answer["tokens"]}
    assert distances == {0: 16, 1: 8, 2: 4} | dict.fromkeys(range(3, 13), 16)
    assert answer["totals"]["retained"] > 0


@pytest.mark.long
@pytest.mark.exhaustive
def test_a_type_with_thousands_of_persistent_occurrences(tmp_path: Path) -> None:
    """More pairs than anybody holds at once."""
    log = RandomLog(22, positions=0)
    text = np.random.default_rng(22).integers(1, 6, size=(120, 60))
    text[:, 1::3] = 0
    log.steps = [0, 10]
    log.tables["fixed"] = [
        Row(step, s, t, int(text[s, t]), 2.0 if text[s, t] == 0 else 0.125)
        for step in log.steps
        for s in range(len(text))
        for t in range(text.shape[1])
    ]
    log.tables["rollout"] = []
    log.prompts = {s: f"prompt {s // 3}" for s in range(len(text))}
    path = log.write(tmp_path / "log")
    answer = check(log, path, window=1, eta=0.078, gamma=0.9, all_types=True)
    assert answer["tokens"][0]["persistent"] == 2400
    assert 0 < answer["tokens"][0]["retained"] < 2400


def hash_of(*words: str) -> int:
    """A seed that is the same in every process."""
    return random.Random("/".join(words)).randrange(2**31)


@st.composite
def option_sets(draw: st.DrawFn) -> dict[str, Any]:
    """Options of `detect`, all of them, together."""
    options: dict[str, Any] = {
        "similarity": draw(st.sampled_from(SIMILARITIES)),
        "partners": draw(st.sampled_from(PARTNERS)),
        "persistence": draw(st.sampled_from(["high", "high", "recalcitrant"])),
        "window": draw(st.sampled_from([1, 2, 3, 5, 8, 20])),
        "gamma": draw(st.sampled_from([0.05, 0.2, 0.25, 0.5, 0.75, 1.0])),
        "eta": draw(st.sampled_from(["auto", 0.0, 0.05, 0.2, 0.5])),
        "quantile_pre": draw(st.sampled_from([0.8, 0.5, 0.75, 0.95, 0.123])),
        "quantile_post": draw(st.sampled_from([None, None, 0.7, 0.29])),
        "tau_pre": draw(st.sampled_from([None, None, None, 0.125, 1.0])),
        "top_k": draw(st.sampled_from([1, 3, 5, 100])),
        "tau_r": draw(st.sampled_from([None, None, 0.5, 2.0])),
        "min_frequency": draw(st.sampled_from([1, 1, 2, 10])),
        "exclude_most_frequent": draw(st.sampled_from([0, 0, 1, 5])),
        "seed": draw(st.sampled_from([0, 1, 12345])),
        "all_types": draw(st.booleans()),
        "context": draw(st.sampled_from(["auto", "auto", "auto", "required"])),
    }
    if options["persistence"] == "high":
        options["tau_post"] = draw(st.sampled_from([None, None, "same", 0.25, 0.5]))
        if options["quantile_post"] == 0.29:
            options["quantile_post"] = 0.6
    # Two ways of saying the same thing are no pair to test.
    if options["tau_pre"] is not None:
        del options["quantile_pre"]
    if options.get("tau_post") is not None:
        del options["quantile_post"]
    return options


@pytest.mark.long
@hypothesis.settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
@hypothesis.given(
    seed=st.integers(0, 10**6),
    options=option_sets(),
    layout=st.sampled_from(LAYOUTS),
    exactness=st.sampled_from(["exact", "exact", "sampled", "topk", None]),
    sequences=st.booleans(),
    steps=st.sampled_from([2, 3]),
    between=st.booleans(),
    statistics=st.booleans(),
)
def test_all_options_together(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    options: dict[str, Any],
    layout: str,
    exactness: str | None,
    sequences: bool,
    steps: int,
    between: bool,
    statistics: bool,
) -> None:
    small = options["eta"] != "auto"
    log = RandomLog(
        seed,
        positions=120 if small else 300,
        tokens=20 if seed % 2 else VOCAB,
        exactness=exactness,
        steps=steps,
        grid=seed % 3 > 0,
        statistics=statistics,
    )
    path = log.write(tmp_path_factory.mktemp("twin") / "log", layout, sequences)
    if between:
        options |= {"pre": log.steps[-2], "post": log.steps[-1]}
    check(log, path, sequences, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "options",
    [
        {"context": "off"},
        {"context": "off", "top_k": 4, "min_frequency": 5},
        {"context": "off", "tau_r": 3.0, "exclude_most_frequent": 3},
        {"table": "rollout"},
        {"table": "rollout", "top_k": 2},
        {"table": "fixed", "context": "off"},
    ],
)
def test_the_rock_score_alone(tmp_path: Path, layout: str, options: dict[str, Any]) -> None:
    log = RandomLog(11, positions=150)
    path = log.write(tmp_path / "log", layout)
    # All types hold the rocks; where the list is cut is looked at once for every shape of a log.
    check(log, path, all_types=True, **options)
    if options.get("top_k"):
        check(log, path, all_types=False, **options)


def test_one_step_and_rollouts_alone(tmp_path: Path) -> None:
    log = RandomLog(12, positions=80, steps=1, unpaired=False)
    check(log, log.write(tmp_path / "one step"), all_types=True)
    log.tables["fixed"] = []
    check(log, log.write(tmp_path / "rollouts"), all_types=True)


def test_a_window_of_the_only_token_is_like_nothing(tmp_path: Path) -> None:
    """Where one type is the whole corpus its surprisal is 0: no vector, no similarity."""
    log = RandomLog(13, positions=120, tokens=1, unpaired=False)
    path = log.write(tmp_path / "log")
    answer = check(log, path, eta=0.0, all_types=True)
    assert answer["tokens"][0]["persistent"] > 0
    assert answer["tokens"][0]["retained"] == 0
    assert check(log, path, eta=0.0, similarity="bag")["tokens"][0]["retained"] > 0


@pytest.mark.long
@pytest.mark.parametrize("eta", ["auto", 0.1])
def test_the_cut_into_shards_does_not_matter(tmp_path: Path, eta: Any) -> None:
    log = RandomLog(14, positions=400, tokens=VOCAB, grid=False)
    answers = []
    for layout in LAYOUTS:
        answer = run(log.write(tmp_path / layout, layout), eta=eta, window=3, all_types=True)
        answers.append({key: answer[key] for key in ("thresholds", "totals", "density", "tokens")})
    for answer in answers[1:]:
        assert_same(answer, answers[0], "result")
