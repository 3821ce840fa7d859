"""The prompts of the language-model sample: distinct, of three domains, of many sources."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from tests.paths import ROOT

sys.path.append(str(ROOT / "sample_data"))

import smol_prompts


def test_prompts_are_distinct_and_their_domains_equally_many():
    prompts = smol_prompts.draw_prompts(1440, seed=3)
    assert len({prompt.text for prompt in prompts}) == 1440
    assert Counter(prompt.domain for prompt in prompts) == {
        "math": 480,
        "code": 480,
        "general": 480,
    }
    assert not any(mark in prompt.text for prompt in prompts for mark in "{}")


def test_no_source_is_used_often_and_many_are():
    prompts = smol_prompts.draw_prompts(1440, seed=3)
    for domain, sources in (("math", 40), ("code", 90), ("general", 140)):
        used = Counter(prompt.source for prompt in prompts if prompt.domain == domain)
        assert max(used.values()) <= 1 + 480 * smol_prompts.MOST_PER_HUNDRED // 100
        assert len(used) >= sources


def test_fewer_prompts_are_the_beginning_and_another_seed_draws_others():
    prompts = smol_prompts.draw_prompts(120, seed=3)
    assert smol_prompts.draw_prompts(60, seed=3) == prompts[:60]
    assert smol_prompts.draw_prompts(60, seed=4) != prompts[:60]


def test_too_many_prompts_are_refused():
    with pytest.raises(ValueError, match=r"no more than \d+ distinct prompts"):
        smol_prompts.draw_prompts(9000, seed=3)
