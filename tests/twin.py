"""The brute force that `rocktok.detect` is held to: definitions.md in plain loops.

It shares no code with rocktok, imports nothing but the standard library, and is written to be
read as the specification: one function per sentence of the definitions. It is quadratic and meant
for logs of a few hundred positions.

A log is given as `tables` (`{"fixed": [Row, …], "rollout": […]}`), `prompts` (sequence → prompt,
or None where the log has no sequences table) and `exactness`; `detect` takes the options of
`rocktok.detect` and returns what its JSON holds, apart from `schema`, `log`, `params` and the
tokens' text.
"""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple

Numbers = dict[str, Any]
Window = tuple[tuple[int, int], ...]


class Row(NamedTuple):
    """One row of `rollout/` or `fixed/`: the token generated at a position, and its loss."""

    step: int
    sequence_id: int
    position: int
    token_id: int
    loss: float
    log_ratio: float | None = None
    student_logprob: float | None = None
    teacher_logprob: float | None = None


class Occurrence(NamedTuple):
    """One position of the corpus, with what the windows need."""

    sequence_id: int
    position: int
    token_id: int
    prompt: Any
    pre: float | None
    post: float


# --- numbers -----------------------------------------------------------------------------------


def float32(x: float) -> float:
    """The float32 nearest to x."""
    return float(struct.unpack("f", struct.pack("f", x))[0])


def quantile(values: list[float], q: float) -> float:
    """The smallest value x such that at least a share q of the values is at most x.

    q is read as the decimal that it was written as: 0.1 of 10 values is exactly one of them.
    """
    rank = math.ceil(Fraction(repr(q)) * len(values))
    return sorted(values)[max(rank, 1) - 1]


def mean(values: list[float]) -> float:
    """The arithmetic mean, summed exactly."""
    return math.fsum(values) / len(values)


def mix(x: int) -> int:
    """The finaliser of splitmix64."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def position_hash(seed: int, sequence_id: int, position: int) -> int:
    """64 bits that say when a position is drawn: a function of nothing but these three."""
    golden = 0x9E3779B97F4A7C15
    h = mix((seed + golden) % 2**64)
    h = mix((h + golden * (sequence_id % 2**64 + 1)) % 2**64)
    return mix((h + golden * (position + 1)) % 2**64)


# --- windows and their similarity --------------------------------------------------------------


def window(text: dict[int, int], position: int, w: int) -> Window:
    """The recorded positions within w of this one, as (offset, token); the centre left out."""
    return tuple(
        (offset, text[position + offset])
        for offset in range(-w, w + 1)
        if offset != 0 and position + offset in text
    )


def counts(win: Window) -> dict[int, int]:
    """Token → how often the window holds it, in ascending token id."""
    tokens = sorted(token for _, token in win)
    return {token: tokens.count(token) for token in tokens}


def cosine(a: dict[int, float], b: dict[int, float]) -> float | None:
    """Cosine of two sparse vectors with ascending keys; None where one of them is zero."""
    norm_a = math.sqrt(sum(x * x for x in a.values()))
    norm_b = math.sqrt(sum(x * x for x in b.values()))
    if norm_a == 0 or norm_b == 0:
        return None
    return sum(x * b[key] for key, x in a.items() if key in b) / (norm_a * norm_b)


class Similarity:
    """sim(c, c') for one way of comparing; `similar` applies gamma."""

    def __init__(
        self,
        kind: str,
        w: int,
        gamma: float,
        frequency: dict[int, int],
        embeddings: Any,
        sketches: dict[tuple[int, int], int] | None = None,
    ) -> None:
        self.kind, self.w, self.gamma = kind, w, gamma
        self.sketches = sketches or {}
        self.embeddings = embeddings
        n = sum(frequency.values())
        self.weight = {u: -math.log(n_u / n) for u, n_u in frequency.items()}
        self.vectors: dict[Window, dict[int, float]] = {}  # only to save time
        self.verdicts: dict[tuple[Window, Window], bool] = {}  # only to save time

    def vector(self, win: Window) -> dict[int, float]:
        """What the cosine is taken of."""
        if self.kind == "bag":
            return {u: float(c) for u, c in counts(win).items()}
        if self.kind == "surprisal":
            return {u: c * self.weight[u] for u, c in counts(win).items()}
        assert self.kind == "embedding"
        dimensions = len(self.embeddings[0])
        mean = dict.fromkeys(range(dimensions), 0.0)
        for u, c in counts(win).items():
            for d in range(dimensions):
                mean[d] += c * float(self.embeddings[u][d]) / len(win)
        return mean

    def context(self, texts: dict[int, dict[int, int]], o: Occurrence) -> Any:
        """What of an occurrence is compared: its window, or the sketch of the place before it;
        None: it has none.
        """
        if self.kind == "hidden":
            before = o.sequence_id, o.position - 1
            return self.sketches.get(before) if before[1] in texts[o.sequence_id] else None
        return window(texts[o.sequence_id], o.position, self.w)

    def value(self, a: Any, b: Any) -> float | None:
        """The similarity of two windows, or sketches; None where it is not defined."""
        if self.kind == "hidden":
            return math.cos(math.pi * (a ^ b).bit_count() / 256)
        if not a or not b:
            return None
        if self.kind == "jaccard":
            tokens_a, tokens_b = set(counts(a)), set(counts(b))
            return len(tokens_a & tokens_b) / len(tokens_a | tokens_b)
        if self.kind == "positional":
            return len(set(a) & set(b)) / (2 * self.w)
        for win in (a, b):
            if win not in self.vectors:
                self.vectors[win] = self.vector(win)
        return cosine(self.vectors[a], self.vectors[b])

    def similar(self, a: Any, b: Any) -> bool:
        if (a, b) not in self.verdicts:
            s = self.value(a, b)
            self.verdicts[a, b] = s is not None and s >= self.gamma - 1e-9
        return self.verdicts[a, b]


def may_be_partners(rule: str, a: Occurrence, b: Occurrence) -> bool:
    """Whether the rule lets b count for a."""
    if rule == "other-prompt":
        return a.prompt != b.prompt
    if rule == "other-sequence":
        return a.sequence_id != b.sequence_id
    assert rule == "all"
    return (a.sequence_id, a.position) != (b.sequence_id, b.position)


# --- the whole ---------------------------------------------------------------------------------


def detect(
    tables: dict[str, list[Row]],
    prompts: dict[int, Any] | None = None,
    exactness: str | None = "exact",
    *,
    pre: int | None = None,
    post: int | None = None,
    table: str = "auto",
    context: str = "auto",
    quantile_pre: float = 0.8,
    quantile_post: float | None = None,
    tau_pre: float | None = None,
    tau_post: float | str | None = None,
    persistence: str = "high",
    window: int = 8,
    similarity: str = "surprisal",
    partners: str = "other-prompt",
    gamma: float | None = None,
    eta: float | str = "auto",
    embeddings: Any = None,
    sketches: dict[tuple[int, int], int] | None = None,
    top_k: int = 100,
    tau_r: float | None = None,
    min_frequency: int = 1,
    exclude_most_frequent: int = 0,
    seed: int = 0,
    all_types: bool = False,
) -> Numbers:
    # Which table, which steps, and whether there is a before and an after.
    if table == "auto":
        table = "fixed" if tables.get("fixed") else "rollout"
    rows = tables[table]
    steps = sorted({row.step for row in rows})
    pre = steps[0] if pre is None else pre
    post = steps[-1] if post is None else post
    with_context = context != "off" and table == "fixed" and pre != post

    # The corpus: rows at post, of sequences that are present at both steps.
    def loss_of(row: Row) -> float:
        return 0.0 if exactness == "exact" and -1e-4 <= row.loss < 0 else row.loss

    losses = {(row.step, row.sequence_id, row.position): loss_of(row) for row in rows}
    at_pre = {row.sequence_id for row in rows if row.step == pre}
    at_post = {row.sequence_id for row in rows if row.step == post}
    used = at_pre & at_post if with_context else at_post
    corpus = [
        Occurrence(
            row.sequence_id,
            row.position,
            row.token_id,
            row.sequence_id if prompts is None else prompts[row.sequence_id],
            losses[pre, row.sequence_id, row.position] if with_context else None,
            losses[post, row.sequence_id, row.position],
        )
        for row in sorted(rows)
        if row.step == post and row.sequence_id in used
    ]
    frequency: dict[int, int] = {}
    for o in corpus:
        frequency[o.token_id] = frequency.get(o.token_id, 0) + 1
    total = math.fsum(o.post for o in corpus)

    tokens: dict[int, Numbers] = {}
    for v in frequency:
        mine = [o for o in corpus if o.token_id == v]
        rock_score = math.fsum(o.post for o in mine)
        tokens[v] = {
            "token_id": v,
            "frequency": len(mine),
            "prompts": len({o.prompt for o in mine}),
            "mean_loss": rock_score / len(mine),
            "rock_score": rock_score,
            "loss_share": rock_score / total,
            "flags": set(),
        }
        # What else was recorded of v's occurrences.
        of_v = [
            row
            for row in rows
            if row.step == post and row.sequence_id in used and row.token_id == v
        ]
        recorded = of_v[0].log_ratio is not None
        tokens[v] |= {
            "mean_log_ratio": mean([row.log_ratio for row in of_v]) if recorded else None,
            "student_probability": mean([math.exp(row.student_logprob) for row in of_v])
            if recorded
            else None,
            "teacher_probability": mean([math.exp(row.teacher_logprob) for row in of_v])
            if recorded
            else None,
        }
        # What the late student itself writes, where that was recorded too.
        own = [row for row in tables.get("rollout", []) if row.step == post]
        own_losses = [loss_of(row) for row in own if row.token_id == v]
        compare = table == "fixed" and bool(own)
        tokens[v] |= {
            "rollout_frequency": len(own_losses) if compare else None,
            "rollout_rock_score": math.fsum(own_losses) if compare else None,
        }
        if compare and not own_losses:
            tokens[v]["flags"].add("not_in_rollouts")

    thresholds: Numbers = dict.fromkeys(("tau_pre", "tau_post", "tau_change", "ratio"))
    persistent: dict[int, list[Occurrence]] = {}
    retained: set[tuple[int, int]] = set()
    if with_context:
        thresholds, persistent = persistent_occurrences(
            corpus, persistence, quantile_pre, quantile_post, tau_pre, tau_post
        )
        texts: dict[int, dict[int, int]] = {}
        for o in corpus:
            texts.setdefault(o.sequence_id, {})[o.position] = o.token_id
        drawn_in_order = sorted(
            corpus,
            key=lambda o: (
                position_hash(seed, o.sequence_id, o.position),
                o.sequence_id,
                o.position,
            ),
        )
        similar = Similarity(similarity, window, gamma or 0.5, frequency, embeddings, sketches)
        # What has no context is neither judged nor drawn.
        drawn_in_order = [o for o in drawn_in_order if similar.context(texts, o) is not None]
        if similarity == "hidden" and gamma is None:
            similar.gamma = gamma_of(drawn_in_order, texts, similar, partners)
        thresholds["gamma"] = similar.gamma
        for v in frequency:
            found, kept = context_of_type(
                v, persistent.get(v, []), drawn_in_order, texts, similar, partners, eta
            )
            tokens[v]["flags"] |= found.pop("flags")
            tokens[v] |= found
            tokens[v] |= {
                "persistence_lift": lift(v, corpus, persistent.get(v, []), thresholds, persistence),
                "persistent_prompts": len(
                    {
                        o.prompt
                        for o in persistent.get(v, [])
                        if similar.context(texts, o) is not None
                    }
                ),
                "ccr": None,
                "retained_loss": None,
                "context_rock_score": None,
            }
            if kept is not None:
                ccr = len(kept) / frequency[v]
                tokens[v] |= {
                    "ccr": ccr,
                    "retained_loss": math.fsum(o.post for o in kept),
                    "context_rock_score": tokens[v]["rock_score"] * ccr,
                }
                retained |= {(o.sequence_id, o.position) for o in kept}
    else:
        for v in frequency:
            tokens[v] |= dict.fromkeys(
                (
                    "persistent",
                    "persistent_prompts",
                    "persistence_lift",
                    "retained",
                    "retained_loss",
                    "eta",
                    "eta_count",
                    "null_distance",
                    "ccr",
                    "context_rock_score",
                )
            )

    # Who may be a rock, and the ranking.
    by_frequency = sorted(frequency, key=lambda v: (-frequency[v], v))
    excluded = set(by_frequency[:exclude_most_frequent])
    excluded |= {v for v in frequency if frequency[v] < min_frequency}
    for v in excluded:
        tokens[v]["flags"].add("excluded")
    score = "context_rock_score" if with_context else "rock_score"

    def order(v: int) -> tuple[Any, ...]:
        unknown = tokens[v][score] is None
        ranked_by = tokens[v]["rock_score"] if unknown else tokens[v][score]
        return (v in excluded, unknown, -ranked_by, -frequency[v], v)

    ranking = sorted(frequency, key=order)
    so_far: list[float] = []
    for rank, v in enumerate(ranking, start=1):
        so_far.append(tokens[v]["loss_share"])
        value = tokens[v][score]
        if v in excluded or value is None:
            is_rock = False
        elif tau_r is not None:
            is_rock = value >= tau_r
        else:
            is_rock = rank <= top_k and value > 0
        tokens[v] |= {"rank": rank, "coverage": math.fsum(so_far), "is_rock": is_rock}

    # Totals and density.
    rocks = {v for v in ranking if tokens[v]["is_rock"]}
    of_rocks = [
        o for o in corpus if (o.sequence_id, o.position) in retained and o.token_id in rocks
    ]
    share_type, share_retained = [], []
    for sequence_id in sorted(used):
        here = [o for o in corpus if o.sequence_id == sequence_id]
        share_type.append(sum(o.token_id in rocks for o in here) / len(here))
        share_retained.append(sum(o in of_rocks for o in here) / len(here))

    def spread(shares: list[float]) -> Numbers:
        return {
            "median": quantile(shares, 0.5),
            "p10": quantile(shares, 0.1),
            "p90": quantile(shares, 0.9),
        }

    return {
        "thresholds": thresholds,
        "totals": {
            "sequences": len(used),
            "positions": len(corpus),
            "loss": total,
            "persistent": sum(map(len, persistent.values())) if with_context else None,
            "retained": len(of_rocks) if with_context else None,
            "unpaired_sequences": len(at_pre ^ at_post) if with_context else None,
        },
        "density": {
            "type": spread(share_type),
            "retained": spread(share_retained)
            if with_context
            else dict.fromkeys(("median", "p10", "p90")),
        },
        "tokens": [tokens[v] for v in ranking if all_types or v in rocks],
    }


def persistent_occurrences(
    corpus: list[Occurrence],
    persistence: str,
    quantile_pre: float,
    quantile_post: float | None,
    tau_pre: float | None,
    tau_post: float | str | None,
) -> tuple[Numbers, dict[int, list[Occurrence]]]:
    """The thresholds, and O_PH by type."""
    if tau_pre is None:
        tau_pre = quantile([o.pre for o in corpus], quantile_pre)
    tau_change = None
    if persistence == "recalcitrant":
        change = [float32(o.pre - o.post) for o in corpus]
        tau_change = quantile(change, 0.2 if quantile_post is None else quantile_post)
        chosen = [o.pre >= tau_pre and c < tau_change for o, c in zip(corpus, change, strict=True)]
    else:
        assert persistence == "high"
        if tau_post == "same":
            tau_post = tau_pre
        elif tau_post is None:
            q = 0.8 if quantile_post is None else quantile_post
            tau_post = quantile([o.post for o in corpus], q)
        chosen = [o.pre >= tau_pre and o.post >= tau_post for o in corpus]
    if tau_pre <= 0 or (tau_post is not None and tau_post <= 0):
        raise ValueError("every loss would do")
    persistent: dict[int, list[Occurrence]] = {}
    for o, yes in zip(corpus, chosen, strict=True):
        if yes:
            persistent.setdefault(o.token_id, []).append(o)
    thresholds = {
        "tau_pre": tau_pre,
        "tau_post": tau_post,
        "tau_change": tau_change,
        "ratio": None if tau_post is None else tau_post / tau_pre,
    }
    return thresholds, persistent


def lift(
    v: int,
    corpus: list[Occurrence],
    o_ph: list[Occurrence],
    thresholds: Numbers,
    persistence: str,
) -> float | None:
    """How much more often v is hard twice than if being hard before and after were unrelated."""
    if persistence != "high":
        return None
    mine = [o for o in corpus if o.token_id == v]
    a = sum(o.pre >= thresholds["tau_pre"] for o in mine)
    b = sum(o.post >= thresholds["tau_post"] for o in mine)
    return None if a * b == 0 else len(o_ph) * len(mine) / (a * b)


def gamma_of(
    drawn_in_order: list[Occurrence],
    texts: dict[int, dict[int, int]],
    similarity: Similarity,
    partners: str,
) -> float:
    """The 0.95 quantile of the similarities of random pairs of positions that may be partners."""
    values: list[float] = []
    n = len(drawn_in_order)
    for apart in range(1, (n - 1) // 2 + 1):
        if len(values) >= 65536 or (apart - 1) * n >= 8 * 65536:
            break
        for i, a in enumerate(drawn_in_order):
            b = drawn_in_order[(i + apart) % n]
            if may_be_partners(partners, a, b):
                value = similarity.value(similarity.context(texts, a), similarity.context(texts, b))
                assert value is not None
                values.append(value)
    return max(quantile(values, 0.95), math.cos(math.pi * 127 / 256)) if values else 1.0


def null_draws(
    v: int, drawn_in_order: list[Occurrence], texts: dict[int, dict[int, int]], w: int
) -> tuple[list[Occurrence], int | None]:
    """Positions far from every v, and how far; none where fewer than 200 exist."""
    for distance in (2 * w, w, w // 2):
        eligible = (
            o
            for o in drawn_in_order
            if not any(
                texts[o.sequence_id].get(o.position + offset) == v
                for offset in range(-distance, distance + 1)
            )
        )
        draws = list(islice(eligible, 1000))
        if len(draws) >= 200:
            return draws, distance
    return [], None


def context_of_type(
    v: int,
    o_ph: list[Occurrence],
    drawn_in_order: list[Occurrence],
    texts: dict[int, dict[int, int]],
    similarity: Similarity,
    partners: str,
    eta: float | str,
) -> tuple[Numbers, list[Occurrence] | None]:
    """What stands in v's row, and the retained occurrences (None where they are not known)."""
    row: Numbers = {
        "persistent": len(o_ph),
        "retained": 0,
        "eta": None,
        "eta_count": None,
        "null_distance": None,
        "flags": set(),
    }
    if not o_ph:
        return row, []
    w, few = similarity.w, len(o_ph) < 20
    o_ph = [o for o in o_ph if similarity.context(texts, o) is not None]
    if few or len({o.prompt for o in o_ph}) < 5:
        row["flags"].add("low_power")
    windows = {o: similarity.context(texts, o) for o in o_ph}

    def similar_partners(o: Occurrence) -> tuple[int, float]:
        """How many of o's partners have a window like o's: the number, and the share."""
        mine = similarity.context(texts, o)
        others = [other for other in o_ph if may_be_partners(partners, o, other)]
        number = sum(similarity.similar(mine, windows[other]) for other in others)
        return number, number / len(others) if others else 0.0

    if eta == "auto":
        draws, row["null_distance"] = null_draws(v, drawn_in_order, texts, w)
        if not draws:
            row["flags"].add("null_scarce")
            row["retained"] = None
            return row, None
        null = [similar_partners(draw) for draw in draws]
        at = math.floor(Fraction("0.95") * len(draws))  # from zero: the 951st of 1,000
        row["eta_count"] = sorted(number for number, _ in null)[at]
        row["eta"] = sorted(rate for _, rate in null)[at]
    else:
        row["eta"] = eta
    kept = []
    for o in o_ph:
        number, rate = similar_partners(o)
        if eta == "auto":
            retain = number > row["eta_count"] and rate > row["eta"]
        else:
            retain = rate >= eta and rate > 0
        if retain:
            kept.append(o)
    row["retained"] = len(kept)
    return row, kept
