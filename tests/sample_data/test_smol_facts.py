"""What was left out of the sample's run.json: written if the tokenizer is the log's, else not."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pytest

pytest.importorskip("trl")

import rocktok
from rocktok.hooks.vocabulary import vocabulary
from rocktok.log import LogWriter
from tests.logs import RUN, rows
from tests.paths import ROOT
from tests.trl_models import make_tokenizer

sys.path.append(str(ROOT / "sample_data"))

import smol_facts


def test_facts_are_of_the_tokenizer_that_the_log_was_recorded_with(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    run = {**RUN, "vocab_size": len(tokenizer)}
    with LogWriter(tmp_path / "log", run=run, vocab=vocabulary(tokenizer)) as writer:
        writer.write(rows(0, range(2)))
        writer.finish_step(0)
    log = rocktok.open(tmp_path / "log")
    facts = smol_facts.facts_of(log, tokenizer, make_tokenizer())
    assert (facts["teacher_tokenizer"], facts["tokens_differ"]) == ("found", 0)
    assert facts["special_differ"] == [] and facts["template"]["same"] is True
    other = make_tokenizer()
    other.add_tokens(["one more"])
    with pytest.raises(click.ClickException, match="another tokenizer"):
        smol_facts.facts_of(log, other, other)


def test_the_published_log_says_that_its_tokenizers_agree() -> None:
    run = rocktok.open(ROOT / "sample_data" / "smol").run
    assert run is not None
    assert run["tokenizers"]["teacher_tokenizer"] == "found"
    assert run["tokenizers"]["template"] == {"same": True, "first_difference": None}
