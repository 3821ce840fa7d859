"""The experiments of the paper on the sample's models: banned, replaced and skipped tokens.

    pip install -e '.[trl]'
    python sample_data/experiments.py --work DIRECTORY --smol-work DIRECTORY

takes the models and logs that make.py and make_smol.py have made in these directories and asks what
rocks are good for: (census) which tokens the accuracy depends on, by banning each; (replacement)
what happens where the teacher's token stands in for a rock; (training) how well students become
that are trained without the loss of some tokens; (language) the replacement on a language model.
Each is beside controls. Finished stages are kept, and a run that is killed goes on where it was;
``--smoke`` does all of it with tiny numbers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Read when transformers and datasets are imported, so it has to be set before.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import click
import experiment_language
import experiment_toy
import experiment_training
import make
import pyarrow.parquet as pq
import torch
from experiment_settings import FULL, SMOKE, Settings
from experiment_tables import page

HERE = Path(__file__).resolve().parent

PARTS = ("census", "replacement", "training", "language")

#: Bytes that what is published may take.
LIMIT = 3_000_000


def keep_settings(folder: Path, settings: Settings) -> None:
    """Refuse to go on with experiments of other sizes."""
    path = folder / "settings.json"
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=1) + "\n")
    if json.loads(path.read_text()) != wanted:
        raise click.ClickException(
            f"{folder}: holds experiments of other settings; give another --work"
        )


def run(
    work: Path, settings: Settings, log: Path | None, smol_work: Path | None, parts: tuple[str, ...]
) -> Path:
    """The stages of some parts, in order; where they are."""
    folder = work / settings.name
    keep_settings(folder, settings)
    toy = experiment_toy.made(work, folder, settings, log)
    experiment_toy.prepare(toy, folder, settings)
    if "census" in parts:
        outcomes = partial(experiment_toy.ban, folder, settings)
        intervention(folder, "census", outcomes)
    if "replacement" in parts:
        outcomes = partial(experiment_toy.replace, folder, settings)
        intervention(folder, "replacement", outcomes)
    if "training" in parts:
        experiment_training.run(toy, folder, settings)
        answers = partial(experiment_training.write_answers, folder, settings)
        make.stage(folder / "training.parquet", answers)
        summary = partial(experiment_training.write_summary, folder, settings)
        make.stage(folder / "training.json", summary)
    if "language" in parts:
        if smol_work is not None:
            language = experiment_language.of_sample(smol_work, folder)
        elif settings.recipes is not None:
            language = experiment_language.stand_in(toy)
        else:
            click.echo("language: left out, as no --smol-work is given")
            return folder
        experiment_language.run(language, folder, settings)
    return folder


def intervention(folder: Path, name: str, outcomes: Any) -> None:
    """Outcomes, and what `rocktok pillars` says of them."""
    make.stage(folder / f"{name}.parquet", outcomes)
    judge = partial(experiment_toy.judge, folder, f"{name}.parquet")
    make.stage(folder / f"{name}.json", judge)


# -- what is published -----------------------------------------------------------------------


def summary(folder: Path) -> dict[str, Any]:
    """What has been measured so far; parts that are not done are absent."""
    settings = json.loads((folder / "settings.json").read_text())
    content: dict[str, Any] = {
        "settings": {key: value for key, value in settings.items() if key != "recipes"},
        "versions": {name: version(name) for name in ("rocktok", "torch", "transformers", "trl")},
    }
    if (folder / "rocks.json").exists():
        found = json.loads((folder / "rocks.json").read_text())
        shares = [row["loss_share"] for row in found["tokens"] if row["is_rock"]]
        content["rocks"] = {
            "types": len(shares),
            "loss_share": sum(shares),
            "similarity": found["params"]["similarity"],
        }
    for part in PARTS:
        if (folder / f"{part}.json").exists():
            content[part] = json.loads((folder / f"{part}.json").read_text())
    return content


def publish(folder: Path, target: Path) -> None:
    """Copy the outcomes, compressed, and the summary to ``target``, where an older one gives way.

    Raises `ClickException` where they take more than `LIMIT`.
    """
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for part in PARTS:
        source = folder / f"{part}.parquet"
        if (folder / f"{part}.json").exists() and source.exists():
            compressed(source, unfinished / source.name)
    text = json.dumps(summary(folder), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (unfinished / "summary.json").write_text(text, encoding="utf-8")
    sizes = {path.name: path.stat().st_size for path in sorted(unfinished.iterdir())}
    for name, size in sizes.items():
        click.echo(f"  {name}: {size / 1e6:.2f} MB")
    if sum(sizes.values()) > LIMIT:
        raise click.ClickException(
            f"{unfinished}: takes {sum(sizes.values()) / 1e6:.1f} MB, more than {LIMIT / 1e6:g} MB"
        )
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    click.echo(f"{target}: {sum(sizes.values()) / 1e6:.2f} MB")


def compressed(source: Path, target: Path) -> None:
    """The same table, metadata included, in fewer bytes."""
    pq.write_table(
        pq.read_table(source, partitioning=None), target, compression="zstd", compression_level=19
    )


@click.command()
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    required=True,
    help="Work directory of make.py, in which the experiments go on.",
)
@click.option(
    "--smol-work",
    type=click.Path(path_type=Path, exists=True),
    help="Work directory of make_smol.py, for the language model. Without it that part is left "
    "out; with --smoke, the toy models stand in.",
)
@click.option(
    "--log",
    type=click.Path(path_type=Path, exists=True),
    help="Log whose rocks are tested. Default: that of the work directory; with --smoke, opd.",
)
@click.option(
    "--part",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    help="One part only; may be repeated. Default: all.",
)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="Directory of outcomes and summary. Default: experiments, beside this file; with "
    "--smoke, in the work directory.",
)
@click.option(
    "--docs",
    type=click.Path(path_type=Path),
    help="Markdown page to write from the summary: a section for each part that is done.",
)
@click.option("--smoke", is_flag=True, help="All stages with tiny numbers, as a rehearsal.")
@click.option("--threads", default=2, show_default=True, help="Threads that torch may use.")
def main(
    work: Path,
    smol_work: Path | None,
    log: Path | None,
    parts: tuple[str, ...],
    target: Path | None,
    docs: Path | None,
    smoke: bool,
    threads: int,
) -> None:
    """Run the experiments, in stages that survive a kill, and publish what came out."""
    torch.set_num_threads(threads)
    work = work.resolve()
    settings = SMOKE if smoke else FULL
    target = target or (work / settings.name / "published" if smoke else HERE / "experiments")
    if target.exists() and not (target / "summary.json").exists():
        raise click.ClickException(f"{target} holds no summary.json, so it is not replaced")
    folder = run(work, settings, log, smol_work, parts or PARTS)
    publish(folder, target)
    if docs is not None:
        content = json.loads((target / "summary.json").read_text(encoding="utf-8"))
        docs.write_text(page(content), encoding="utf-8")
        click.echo(f"{docs}: written")


if __name__ == "__main__":
    main()
