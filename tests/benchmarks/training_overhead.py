"""TRL's `DistillationTrainer` with and without the recorder: seconds per optimizer step.

`python tests/benchmarks/training_overhead.py [--rounds 5] [--steps 12]` trains a student of eight
layers, hidden size 256, whose head (vocabulary 16,384) is a third of its parameters, as that of a
0.6-billion-parameter model is a quarter, from a teacher of the same vocabulary. Runs without a
recorder and with one that records every other step take turns; each step's time is divided by that
of the same step, which does the same work, of the run without. Then one scoring of fixed text, with
and without gradient sums, is timed by itself; and what each preset of columns, likeliest tokens and
sketches add to such scorings, as ratios to those with the default columns alone, in turns, with the
bytes that they take in the log. `--scorings` prints these alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from transformers import PrinterCallback, Qwen3Config, Qwen3ForCausalLM, TrainerCallback

import rocktok
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach, callback
from rocktok.hooks.trl.describe import describe_run
from rocktok.hooks.trl.fixed import score_fixed
from tests import trl_models

VOCABULARY = 16_384
THREADS = len(os.sched_getaffinity(0))
PROMPTS = [f"What is {a} plus {b}?\n" for a in range(40) for b in range(40)]


def model(seed: int, hidden: int, layers: int) -> Any:
    """A causal language model with random weights."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=hidden // 4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            eos_token_id=0,
            bos_token_id=None,
        )
    )


class Clock(TrainerCallback):
    """When each optimizer step ended: on the clock, and in processor time of all threads."""

    def __init__(self) -> None:
        self.ends: list[np.ndarray] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(np.array([time.perf_counter(), time.process_time()]))

    @property
    def seconds(self) -> np.ndarray:
        """(steps, 2), of each step but the first two, which warm up."""
        return np.diff(self.ends[1:], axis=0)


def trainer(folder: Path, steps: int) -> tuple[Any, Clock]:
    """A trainer of `steps` steps."""
    clock = Clock()
    trl_models.make_model = lambda seed, hidden=32, **_: model(seed, 384, 8)
    made = trl_models.make_trainer(
        folder,
        student=model(1, 256, 8),
        prompts=PROMPTS,
        callbacks=[clock],
        max_steps=steps,
        per_device_train_batch_size=8,
        max_completion_length=64,
        logging_steps=10_000,
    )
    torch.set_num_threads(THREADS)
    made.remove_callback(PrinterCallback)
    return made, clock


def train(every: int | None, steps: int, **options: Any) -> np.ndarray:
    """Seconds of each step of one run."""
    with tempfile.TemporaryDirectory() as name:
        made, clock = trainer(Path(name), steps)
        if every is None:
            made.train()
        else:
            recorder = Recorder(
                Path(name) / "log", every=every, **{"fixed_sequences": 0, **options}
            )
            with attach(made, recorder):
                made.train()
    return clock.seconds


#: What is recorded at the scorings that are compared; the first is what the others are held to.
VARIANTS: dict[str, dict[str, Any]] = {
    "default columns alone": {"alternatives": 0, "contexts": False},
    "+ alternatives": {"contexts": False},
    "+ contexts": {"alternatives": 0},
    "+ both (the default)": {},
    "lenses, both": {"columns": "lenses"},
    "all, both": {"columns": "all"},
}


def compare_scorings(rounds: int) -> None:
    """Print what each variant costs: of the first scoring, which makes contexts, and of another.

    All score the same 8 texts with the same models in one process, in turns.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in VARIANTS}
    sizes: dict[str, str] = {}

    def compare(family: Any, recorder: Recorder, capture: Any, step: int) -> None:
        if step:
            return
        for number in range(rounds + 1):
            for name, options in VARIANTS.items():
                log = Path(str(recorder.log_dir)) / f"{number}-{len(found[name])}-{name}"
                seconds, sizes[name] = scorings(family, recorder, capture, log, options)
                # The first round warms up.
                if number:
                    found[name].append(seconds)

    callback.score_fixed = compare
    train(1_000, 1, fixed_sequences=8)
    callback.score_fixed = score_fixed
    # Other work only ever adds time: the fastest of the rounds is what the work itself takes.
    least = {name: np.min(np.stack(seconds), axis=0) for name, seconds in found.items()}
    base = least[next(iter(VARIANTS))]
    print(f"{next(iter(VARIANTS))}: {base[0, 1]:.2f} s and {base[1, 1]:.2f} s of the processor")
    for name, seconds in least.items():
        first, other = seconds / base
        print(
            f"{name}: first scoring {first[0]:.2f} of the clock, {first[1]:.2f} of the processor; "
            f"another {other[0]:.2f}, {other[1]:.2f}; bytes a row: {sizes[name]}"
        )


def scorings(
    family: Any, kept_by: Recorder, capture: Any, log: Path, options: dict[str, Any]
) -> tuple[np.ndarray, str]:
    """(2, 2) clock and processor seconds of two scorings of kept texts; bytes a row by table."""
    recorder = Recorder(log, every=1, fixed_sequences=8, quiet=True, **options)
    recorder.start(run=describe_run(family))
    recorder.fixed.accept(kept_by.fixed.kept)
    recorder.fixed.complete(0)
    capture._recorder, seconds = recorder, []
    for step in (0, 1):
        began = np.array([time.perf_counter(), time.process_time()])
        score_fixed(family, recorder, capture, step)
        seconds.append(np.array([time.perf_counter(), time.process_time()]) - began)
    capture._recorder = kept_by
    recorder.close()
    opened = rocktok.open(log)
    sizes = [
        f"{table} {sum(s.size for s in opened.shards(table)) / rows:.1f}"
        for table in ("fixed", "alternatives", "contexts")
        if (rows := sum(step.rows for step in opened.steps(table)))
    ]
    return np.stack(seconds), ", ".join(sizes)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=22)
    parser.add_argument("--scorings", action="store_true")
    asked = parser.parse_args()
    print(f"{THREADS} threads, {platform.machine()}, torch {torch.__version__}")
    if asked.scorings:
        compare_scorings(asked.rounds)
        return
    train(1, 3)
    pairs = []
    for _ in range(asked.rounds):
        plain = train(None, asked.steps)
        # Recording changes nothing, so step n does the same work in both runs.
        pairs.append(train(2, asked.steps) / plain)
    ratio = np.stack(pairs)  # (rounds, steps, kinds of time)
    # The first step counted, after two for warming up, is the student's after 2 steps: recorded.
    taken, idle = (np.median(ratio[:, start::2], axis=(0, 1)) for start in (0, 1))
    for kind, name in enumerate(("clock", "processor")):
        print(
            f"{name}: step recorded {taken[kind]:.3f}, attached but not recorded {idle[kind]:.3f}; "
            f"every=1 {taken[kind]:.3f}, every=10 {0.1 * taken[kind] + 0.9 * idle[kind]:.3f}"
        )
    for label, options in (("", {}), (", 100 gradient types", {"gradient_types": range(100)})):
        seconds = train(1_000, 9, fixed_sequences=32, fixed_every=4, **options)[:, 1]
        usual = float(np.median(seconds))
        extra = float(seconds.max()) - usual
        print(f"scoring 32 fixed sequences{label}: {extra:.2f} s ({extra / usual:.2f} steps)")
    compare_scorings(asked.rounds)


if __name__ == "__main__":
    main()
