"""The brute force that the tested rule is held to: the definition in plain loops.

It shares no code with rocktok and imports nothing but the standard library and the hash of
twin.py. One function per sentence of the definition; for logs of some thousands of positions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction
from typing import Any, NamedTuple

from tests.twin import mix

GOLDEN = 0x9E3779B97F4A7C15
WORD = 2**64


class Row(NamedTuple):
    """A position of the corpus: `hard` says whether it is persistent, `loss` is that at post."""

    sequence: int
    position: int
    token: int
    prompt: int
    hard: bool
    loss: float


def group_of(prompt: int, groups: int, seed: int) -> int:
    hashed = mix((seed + GOLDEN) % WORD)
    for key in (-3, prompt):
        hashed = mix((hashed + GOLDEN * ((key + 1) % WORD)) % WORD)
    return hashed % groups


def tail(chances: list[float], s: float) -> float:
    """T(π; s)."""
    of_sum = [1.0]
    for chance in chances:
        longer = [0.0] * (len(of_sum) + 1)
        for count, p in enumerate(of_sum):
            longer[count] += p * (1 - chance)
            longer[count + 1] += p * chance
        of_sum = longer

    def at_least(j: int) -> float:
        return 1.0 if j == 0 else sum(reversed(of_sum[j:]))

    j = math.floor(s + 1e-12)
    f = s - j
    if f < 1e-9 or j >= len(chances):
        return at_least(j)
    return at_least(j) ** (1 - f) * at_least(j + 1) ** f


def q_values(p_values: dict[int, float]) -> dict[int, float]:
    """Benjamini-Hochberg; equal p-values share the larger place."""
    m = len(p_values)
    place = {v: sum(other <= p for other in p_values.values()) for v, p in p_values.items()}
    return {
        v: min(min(1.0, m * p_values[u] / place[u]) for u in p_values if p_values[u] >= p)
        for v, p in p_values.items()
    }


class Corpus:
    """The sums of a log, and what they let expect.

    `groups`: None, or so many groups of prompts take the place of the prompts.
    """

    def __init__(
        self, rows: list[Row], *, groups: int | None = None, seed: int = 0, min_others: int = 200
    ) -> None:
        self.rows, self.groups, self.seed, self.min_others = rows, groups, seed, min_others
        self.types = sorted({row.token for row in rows})
        self.of_type: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            self.of_type[row.token].append(row)
        last: dict[int, int] = {}
        for row in rows:
            last[row.sequence] = max(last.get(row.sequence, 0), row.position)
        self.stratum = {}
        for row in rows:
            length = last[row.sequence] + 1
            if row.position == 0:
                b = 0
            elif row.position == length - 1:
                b = 1
            else:
                b = 2 + 10 * row.position // length
            self.stratum[row.sequence, row.position] = b
        self.N_b, self.H_b, self.N_g, self.H_g = (defaultdict(int) for _ in range(4))
        self.n_vb, self.h_vb, self.n_gv, self.h_gv = (defaultdict(int) for _ in range(4))
        for row in rows:
            b = self.stratum[row.sequence, row.position]
            self.N_b[b] += 1
            self.H_b[b] += row.hard
            self.N_g[row.prompt] += 1
            self.H_g[row.prompt] += row.hard
            self.n_vb[row.token, b] += 1
            self.h_vb[row.token, b] += row.hard
            self.n_gv[row.prompt, row.token] += 1
            self.h_gv[row.prompt, row.token] += row.hard

    def ratio(self, v: int, b: int) -> float:
        """a_v(b)."""
        others = self.N_b[b] - self.n_vb.get((v, b), 0)
        if others < self.min_others:
            return 1.0
        all_rows = sum(self.N_b[c] - self.n_vb.get((v, c), 0) for c in range(12))
        all_hard = sum(self.H_b[c] - self.h_vb.get((v, c), 0) for c in range(12))
        if all_hard == 0:
            return 1.0
        return ((self.H_b[b] - self.h_vb.get((v, b), 0)) / others) / (all_hard / all_rows)

    def cluster(self, prompt: int) -> int:
        return prompt if self.groups is None else group_of(prompt, self.groups, self.seed)

    def votes(self, v: int, rows: list[Row]) -> list[tuple[float, float, int]]:
        """(vote, π, persistent) of each cluster that holds some of these occurrences of v."""
        ratios = {b: self.ratio(v, b) for b in range(12)}
        of_cluster: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            of_cluster[self.cluster(row.prompt)].append(row)
        votes = []
        for g, held in sorted(of_cluster.items()):
            a = [ratios[self.stratum[row.sequence, row.position]] for row in held]
            if self.groups is None:
                others = self.N_g[g] - self.n_gv[g, v]
                rate = (self.H_g[g] - self.h_gv[g, v]) / others if others else math.nan
                chance = min(1.0, rate * sum(a) / len(a)) if others else math.nan
            else:
                units = 0
                for row, x in zip(held, a, strict=True):
                    rate = self.H_g[row.prompt] / self.N_g[row.prompt]
                    units += round(min(16.0, rate * x) * 2**36)
                chance = min(1.0, units / 2**36 / len(held))
            hard = sum(row.hard for row in held)
            votes.append((hard / len(held), chance, hard))
        return votes

    def hard_test(self, v: int, rows: list[Row]) -> dict[str, Any]:
        votes = self.votes(v, rows)
        voting = [(vote, chance) for vote, chance, _ in votes if not math.isnan(chance)]
        s, expected = (sum(column) for column in zip(*voting, strict=True)) if voting else (0, 0)
        return {
            "prompts_held": len(votes),
            "hardness": 0.0 if s == 0 else s / expected if expected else math.inf,
            "p_hard": tail([chance for _, chance in voting], s),
            "testable": sum(hard for *_, hard in votes) >= 5
            and sum(hard > 0 for *_, hard in votes) >= 5,
        }


def tested(
    corpus: Corpus,
    judged: dict[int, list[tuple[int, bool]] | None],
    fdr: float = 0.05,
    min_hardness: float = 1.5,
) -> dict[int, dict[str, Any]]:
    """Every type's numbers. `judged`: (prompt, retained) of each judged occurrence, None: no null;
    of a type that is missing nothing is known.
    """
    answer = {}
    for v in corpus.types:
        rows = corpus.of_type[v]
        one = corpus.hard_test(v, rows)
        persistent = sum(row.hard for row in rows)
        contexts = judged.get(v)
        one["p_context"], one["recurs"], one["score"] = math.nan, False, math.nan
        if contexts is not None:
            of_cluster: dict[int, list[bool]] = defaultdict(list)
            for prompt, retained in contexts:
                of_cluster[corpus.cluster(prompt)].append(retained)
            shares = [sum(kept) / len(kept) for _, kept in sorted(of_cluster.items())]
            one["p_context"] = tail([0.05] * len(shares), sum(shares))
            hits = sum(retained for _, retained in contexts)
            one["recurs"] = hits > 0 and Fraction(hits, len(contexts)) >= Fraction(1, 10)
            mean = sum(row.loss for row in rows) / len(rows)
            one["score"] = mean * (hits - 0.05 * persistent)
        one["tested"] = one["testable"] and not (v in judged and contexts is None)
        one["p_value"] = max(one["p_hard"], one["p_context"]) if one["tested"] else 1.0
        answer[v] = one
    family = {v: one["p_value"] for v, one in answer.items() if one["prompts_held"] >= 5}
    q = q_values(family)
    for v, one in answer.items():
        one["q_value"] = q.get(v, 1.0)
        one["is_rock"] = (
            one["tested"]
            and one["q_value"] <= fdr
            and one["hardness"] >= min_hardness
            and one["recurs"]
        )
    return answer


def flags(corpus: Corpus, rocks: list[int]) -> dict[int, dict[str, Any]]:
    """`shadowed_by` (or None), `stretch`, `position_bound` of rocks."""
    of_sequence: dict[int, list[Row]] = defaultdict(list)
    for row in corpus.rows:
        of_sequence[row.sequence].append(row)
    hardest = {}
    for v in rocks:
        losses = [Fraction(row.loss) for row in corpus.of_type[v] if row.hard]
        hardest[v] = sum(losses) / len(losses)
    answer = {}
    for v in rocks:
        rows = corpus.of_type[v]
        shaded_by: dict[int, int] = defaultdict(int)
        persistent = shaded = over = 0
        under = Fraction(0)
        unshaded = []
        for row in rows:
            near = [
                other
                for other in of_sequence[row.sequence]
                if other is not row and abs(other.position - row.position) <= 3
            ]
            shades = {
                other.token
                for other in near
                if other.hard
                and other.token in hardest
                and other.token != v
                and (-hardest[other.token], other.token) < (-hardest[v], v)
            }
            persistent += row.hard
            if row.hard and shades:
                shaded += 1
                for u in shades:
                    shaded_by[u] += 1
            if not shades:
                unshaded.append(row)
            others = [other for other in near if other.token != v]
            if others:
                over += row.hard
                under += Fraction(sum(other.hard for other in others), len(others))
        alone = corpus.hard_test(v, unshaded)
        weak = alone["prompts_held"] < 5 or alone["p_hard"] > 0.05 or alone["hardness"] < 1.25
        shadow = shaded and 2 * shaded >= persistent and weak
        few = sum(
            n
            for (u, b), n in corpus.n_vb.items()
            if u == v and corpus.N_b[b] - n < corpus.min_others
        )
        answer[v] = {
            "shadowed_by": min(shaded_by, key=lambda u: (-shaded_by[u], u)) if shadow else None,
            "stretch": over < Fraction(5, 4) * under,
            "position_bound": 2 * few >= len(rows),
        }
    return answer
