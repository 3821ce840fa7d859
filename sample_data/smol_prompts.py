"""Prompts of three domains for the sample of a language model: word problems, code, questions.

Templates alone would make contexts recur that recur in no real text, so each domain mixes many of
them, many topics and several ways to ask, and no template or topic is used more than a few times.
"""

from __future__ import annotations

import random
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PARTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
DOMAINS = ("math", "code", "general")


@dataclass(frozen=True)
class Prompt:
    """A prompt: its domain, its text, and the template or topic that it was made from."""

    domain: str
    text: str
    source: str


def math_prompt(rng: random.Random) -> tuple[str, str]:
    """A word problem, and its template."""
    template = rng.choice(PARTS["math"]["templates"])
    k, q = rng.randint(2, 9), rng.choice((10, 20, 50))
    c = rng.randint(3, 12)
    b = rng.randint(c + 1, 48)
    a = rng.randint(b + 1, 99)
    n, m = rng.sample(PARTS["math"]["names"], 2)
    r = 5 * rng.randint(1, 12)
    numbers = {
        "a": a, "b": b, "c": c, "k": k, "q": q, "d": c * rng.randint(2, 4), "e": 2 * a,
        "h": 20 * rng.randint(4, 60), "r": r, "s": c * k + b, "v": c * r + 10 * k,
        "u": rng.randint(3, 30) ** 2, "x": c * rng.randint(9, 40), "y": b * rng.randint(4, 20),
        "z": 3 * rng.randint(5, 90),
    }  # fmt: skip
    thing, place = rng.choice(PARTS["math"]["things"]), rng.choice(PARTS["math"]["places"])
    words = {"n": n, "m": m, "t": thing, "p": place}
    return template.format(**numbers, **words), template


def code_prompt(rng: random.Random) -> tuple[str, str]:
    """A request for a small function, and what it shall do."""
    task = rng.choice(PARTS["code"]["tasks"])
    return rng.choice(PARTS["code"]["questions"]).format(task=task), task


def general_prompt(rng: random.Random) -> tuple[str, str]:
    """A question or a small piece of writing, and its topic."""
    group = rng.choice(PARTS["general"])
    topic = rng.choice(group["topics"])
    return rng.choice(group["questions"]).format(x=topic), topic


MAKERS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "math": math_prompt,
    "code": code_prompt,
    "general": general_prompt,
}

#: How often at most one template or topic is used, for a hundred prompts of its domain.
MOST_PER_HUNDRED = 3


def draw_prompts(count: int, seed: int) -> list[Prompt]:
    """``count`` distinct prompts, the domains in turn; fewer of the same seed are their beginning.

    Raises `ValueError` for more than can be made without using a source too often.
    """
    rngs = {domain: random.Random(f"{seed} {domain}") for domain in DOMAINS}
    seen: set[str] = set()
    used = Counter[str]()
    prompts: list[Prompt] = []
    for number in range(count):
        domain = DOMAINS[number % len(DOMAINS)]
        most = 1 + MOST_PER_HUNDRED * (number // len(DOMAINS)) // 100
        for _ in range(10_000):
            text, source = MAKERS[domain](rngs[domain])
            if text not in seen and used[source] < most:
                break
        else:
            raise ValueError(f"no more than {number} distinct prompts can be made with variety")
        seen.add(text)
        used[source] += 1
        prompts.append(Prompt(domain, text, source))
    return prompts
