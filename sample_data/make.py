"""Make the sample log from nothing: a real on-policy distillation of a tiny student.

    pip install -e '.[trl]'
    python sample_data/make.py --work DIRECTORY

trains a tokenizer, a teacher and a student on generated word problems, distils the teacher into
the student with TRL's ``DistillationTrainer`` while rocktok's recorder is attached, and measures on
held-out problems what the student has gained. Nothing is downloaded; every stage is seeded, and a
stage whose output is already in the work directory is not run again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

# Read when transformers and datasets are imported, so it has to be set before.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import click
import extract
import models
import problems
import torch
from datasets import Dataset
from transformers import PrinterCallback, Qwen3ForCausalLM
from trl import DistillationConfig, DistillationTrainer

import rocktok
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach

HERE = Path(__file__).resolve().parent

HELD_OUT = 1000  # problems that no model has seen
PROMPTS = 512  # problems that the student practises on, over and over
BATCH = 32
STEPS = 500
LEARNING_RATE = 5e-4
WARMUP_STEPS = 20
MAX_COMPLETION = 160
RECORD_EVERY = 10
FIXED_SEQUENCES = 256
FIXED_EVERY = 100
COLUMNS = (
    "student_logprob",
    "teacher_logprob",
    "student_entropy",
    "teacher_entropy",
    "grad_norm",
)


def stage(path: Path, make: Callable[[Path], None]) -> None:
    """Run ``make`` unless ``path`` exists; a stage that was interrupted is made anew."""
    if path.exists():
        click.echo(f"{path.name}: kept")
        return
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    began = time.monotonic()
    make(unfinished)
    unfinished.rename(path)
    click.echo(f"{path.name}: made in {time.monotonic() - began:.0f} s")


def load_model(path: Path, name: str) -> Qwen3ForCausalLM:
    """Load a model under a name of our own, so that no path of this machine reaches the log."""
    model = Qwen3ForCausalLM.from_pretrained(path)
    model.config._name_or_path = model.name_or_path = name
    return model


def held_out_problems() -> list[problems.Problem]:
    """The problems that measure accuracy."""
    return problems.draw_distinct(HELD_OUT, seed=999)


def training_prompts() -> Dataset:
    """The prompts of the distillation: plain strings, none of them held out."""
    held_out = frozenset(problem.prompt for problem in held_out_problems())
    practice = problems.draw_distinct(PROMPTS, seed=5, avoid=held_out)
    return Dataset.from_dict({"prompt": [problem.prompt for problem in practice]})


def make_model(name: str, work: Path, path: Path) -> None:
    """Train one of the two models; the held-out problems are kept out of its corpus."""
    avoid = frozenset(problem.prompt for problem in held_out_problems())
    models.train_model(name, models.load_tokenizer(work / "tokenizer"), path, avoid)


def recording(
    trainer: DistillationTrainer, log: Path | None, types: list[int] | None
) -> AbstractContextManager[Any]:
    """Attach the recorder, or nothing where there is no ``log`` to write."""
    if log is None:
        return contextlib.nullcontext()
    recorder = Recorder(
        log,
        every=RECORD_EVERY,
        fixed_sequences=FIXED_SEQUENCES,
        fixed_every=FIXED_EVERY,
        fixed_at_start=False,
        columns=COLUMNS,
        gradient_types=types,
    )
    return attach(trainer, recorder)


def distillation_config(
    output: Path,
    *,
    steps: int = STEPS,
    batch: int = BATCH,
    longest: int = MAX_COMPLETION,
    seed: int = 3,
) -> DistillationConfig:
    """Reverse KL on untruncated samples at temperature 1: the loss recorded is the loss trained."""
    return DistillationConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
        seed=seed,
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP_STEPS,
        max_completion_length=longest,
        beta=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
    )


def compared_types(log: Path) -> list[int]:
    """Token ids of the rocks of a log, and of all groups that `rocktok attribute` compares."""
    members = rocktok.attribute(rocktok.open(log)).members
    groups = ("rocks", "high_kl", "random", "control")
    return sorted({token for group in groups for token in members[group]})


def distil(work: Path, record: bool, first: Path | None, path: Path) -> None:
    """Distil the teacher into the student; leave the new student, its loss curve and the log.

    Gradient sums are recorded of the types that the log of a ``first`` run singles out.
    """
    types = compared_types(first / "log") if first is not None else None
    trainer = DistillationTrainer(
        model=load_model(work / "student", "sample-student"),
        teacher_model=load_model(work / "teacher", "sample-teacher"),
        args=distillation_config(path / "trainer"),
        train_dataset=training_prompts(),
        processing_class=models.load_tokenizer(work / "tokenizer"),
    )
    # It would print every step, and the loss is wanted at every step for the curve alone.
    trainer.remove_callback(PrinterCallback)
    with recording(trainer, path / "log" if record else None, types):
        trainer.train()
    trainer.model.save_pretrained(path / "student")
    # Logged after the step: entry n (from 1) is the loss of the weights after n - 1 steps.
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    (path / "losses.json").write_text(json.dumps(losses))


def count_right(model: Qwen3ForCausalLM, work: Path) -> dict[str, int]:
    """Held-out problems solved: by the most likely tokens, and by one draw at temperature 1.

    Distillation trains on draws, so they are what it improves first.
    """
    tokenizer, held_out = models.load_tokenizer(work / "tokenizer"), held_out_problems()
    return {
        "greedy": models.accuracy(model, tokenizer, held_out, sampled=False),
        "sampled": models.accuracy(model, tokenizer, held_out, sampled=True),
    }


def measure(work: Path, distilled: Path, path: Path) -> None:
    """Size and accuracy of the three models, and the loss curve."""
    places = {
        "teacher": work / "teacher",
        "student before": work / "student",
        "student after": distilled / "student",
    }
    figures: dict[str, Any] = {"held_out": HELD_OUT, "parameters": {}, "right": {}}
    for name, place in places.items():
        model = Qwen3ForCausalLM.from_pretrained(place)
        figures["parameters"][name] = model.num_parameters()
        figures["right"][name] = count_right(model, work)
    losses = json.loads((distilled / "losses.json").read_text())
    figures["mean_loss_of_25_steps"] = means(losses, 25)
    path.write_text(json.dumps(figures, indent=2) + "\n")


def means(values: list[float], size: int) -> list[float]:
    """Means of consecutive stretches of ``size`` values."""
    stretches = [values[start : start + size] for start in range(0, len(values), size)]
    return [round(sum(stretch) / len(stretch), 4) for stretch in stretches]


def publish(log: Path, target: Path) -> None:
    """Write what ``extract.sample`` keeps of a log to ``target``; an older one gives way."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    whole = rocktok.open(log)
    extract.write(whole, unfinished, extract.sample(whole))
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    files = [path for path in target.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    click.echo(f"{target}: {len(files)} files, {size / 1e6:.2f} MB")


@click.command()
@click.option("--work", type=click.Path(path_type=Path), help="Kept models [default: temporary].")
@click.option(
    "--log",
    "target",
    type=click.Path(path_type=Path),
    default=HERE / "opd",
    help="Where the log goes [default: opd, beside this file].",
)
@click.option("--force", is_flag=True, help="Replace an existing log.")
@click.option("--no-record", is_flag=True, help="Distil without the recorder, and write no log.")
@click.option("--threads", default=2, show_default=True, help="Threads that torch may use.")
def main(work: Path | None, target: Path, force: bool, no_record: bool, threads: int) -> None:
    """Make the sample log: tokenizer, teacher, student, distillation, figures."""
    if target.exists() and not (force or no_record):
        raise click.ClickException(f"{target} exists; --force replaces it")
    if force and target.exists() and not (target / "run.json").exists():
        raise click.ClickException(f"{target} holds no run.json, so it is not replaced")
    torch.set_num_threads(threads)
    with contextlib.ExitStack() as stack:
        if work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rocktok-")))
        work.mkdir(parents=True, exist_ok=True)
        run(work, None if no_record else target)


def distil_once(work: Path, record: bool) -> Path:
    """The models and a first distillation; where it is."""
    stage(work / "tokenizer", models.make_tokenizer)
    for name in models.RECIPES:
        stage(work / name, partial(make_model, name, work))
    distilled = work / ("distilled" if record else "distilled-unrecorded")
    stage(distilled, partial(distil, work, record, None))
    return distilled


def run(work: Path, target: Path | None) -> None:
    """All stages in order; without a ``target`` nothing is recorded."""
    distilled = distil_once(work, record=target is not None)
    if target:
        # Which types are rocks is known only at the end. The second run is the first over again,
        # as neither the seed nor the recorder changes anything.
        first, distilled = distilled, work / "distilled-again"
        stage(distilled, partial(distil, work, True, first))
        curves = [(path / "losses.json").read_text() for path in (first, distilled)]
        click.echo("both runs have the same losses" if curves[0] == curves[1] else "runs differ")
    figures = distilled / "figures.json"
    stage(figures, partial(measure, work, distilled))
    click.echo(figures.read_text())
    if target:
        publish(distilled / "log", target)
        shutil.copy(figures, target.with_suffix(".json"))


if __name__ == "__main__":
    main()
