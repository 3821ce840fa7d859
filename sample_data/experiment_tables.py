"""The page of the experiments, from their summary: a section for each part that is done.

Every number and every answer is read from the summary; what is not there is not on the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]

INTRODUCTION = """# Experiments

What are rocks good for? `sample_data/experiments.py` asks the models of the samples: a student that
was distilled from a teacher on word problems (`sample_data/make.py`), and a language model
(`sample_data/make_smol.py`). Outcomes of every single problem, and all numbers below, are in
`sample_data/experiments/`. The toy models are small and their problems alike: what holds here need
not hold elsewhere.
"""

#: Group of arms → its name on the page, in the order of the tables.
GROUPS = {
    "rock": "rocks",
    "control": "similar loss",
    "frequency": "similar frequency",
    "placebo": "placebo",
}

CONDITIONS = {
    "unweighted": "no weights",
    "rocks-0": "rocks, 0",
    "rocks-0.5": "rocks, 0.5",
    "frequency-0": "most frequent, 0",
    "mean-loss-0": "highest mean loss, 0",
    "random-0": "random, 0",
    "control-0": "matched controls, 0",
    "tip-0": "lens TIP, 0",
}


def page(summary: Row) -> str:
    """Markdown of all that has been measured."""
    makers = {
        "census": census_section,
        "replacement": replacement_section,
        "training": training_section,
        "language": language_section,
    }
    parts = [INTRODUCTION]
    if "rocks" in summary:
        parts.append(_rocks(summary["rocks"]))
    claims = list(claim_rows(summary))
    if claims:
        parts += [
            "## Claims and answers\n",
            table(("claim or question", "test", "answer"), claims),
        ]
    parts += [make(summary[name]) for name, make in makers.items() if name in summary]
    return "\n".join(parts)


def _rocks(rocks: Row) -> str:
    contexts = (
        "hidden states of the teacher" if rocks["similarity"] == "hidden" else "windows of tokens"
    )
    return (
        f"The toy models' log has {rocks['types']} rocks with {rocks['loss_share']:.0%} of the "
        f"loss;\ntheir contexts were compared as {contexts}.\n"
    )


# -- claims ----------------------------------------------------------------------------------


def claim_rows(summary: Row) -> Iterable[tuple[str, str, str]]:
    """(claim, test, answer) of the parts that there are."""
    if "census" in summary:
        yield from _census_claims(summary["census"])
    if "replacement" in summary:
        yield from _replacement_claims(summary["replacement"])
    if "training" in summary:
        yield from _training_claims(summary["training"])
    if "language" in summary:
        tested = summary["language"]["rule"] != "top-k"
        whose = "rocks" if tested else "tokens that the paper's rule names"
        row = _against(summary["language"]["compensation_contrasts"], "placebo")
        if row is not None:
            yield (
                "On a language model, too, another token in place of a rock changes the text no "
                "more than one in place of another token.",
                "replacement by the teacher's token at temperature 1; loss and edits of the next "
                f"32 tokens, {whose} "
                "less placebos",
                f"{_loss(row)}; {_edits(row, sign=True)}.",
            )


def _census_claims(census: Row) -> Iterable[tuple[str, str, str]]:
    problems = census["sources"][0]["problems"]
    rocks = _group(census["global"], "rock")
    if rocks is None:
        return
    placebo = _group(census["global"], "placebo")
    beside = f" Of placebos: {_categories(placebo)}." if placebo else ""
    yield (
        "Nearly every rock can be banned without an effect (96.5% of the paper's bans are called "
        "neutral).",
        f"each rock banned on {problems:,} problems, {_decoding(census)}; within one point counts "
        "as equivalent",
        f"{_categories(rocks)}; {rocks['never_fired']} are never written.{beside}",
    )
    told = rocks["p_placebo"]
    compared = "there are no placebos to compare with"
    if told is not None:
        compared = f"against placebos: p = {told:.3g}"
    yield (
        "Bans of rocks lower the accuracy more often than they raise it (the paper's p = 0.002).",
        "accuracies under bans of rocks against those under placebo bans, by ranks",
        f"{rocks['negative']} lower it, {rocks['positive']} raise it, {rocks['zero']} neither; "
        f"{compared}.",
    )


def _replacement_claims(replacement: Row) -> Iterable[tuple[str, str, str]]:
    rows = [row for row in replacement["contrasts"] if row["mode"] == "replace"]
    if rows:
        yield (
            "Rocks are form: the teacher's token in place of a rock does as well as in place of "
            "another token.",
            f"first such occurrence replaced, {_decoding(replacement)}; change of the accuracy at "
            "rocks less that at their controls, 95% interval over pairs",
            "; ".join(
                f"{GROUPS[row['control_group']]}: {_interval(row, 'difference', 'pairs')} points "
                f"({row['pairs']} pair{'' if row['pairs'] == 1 else 's'})"
                for row in rows
            )
            + ".",
        )
    row = _against(replacement["compensation_contrasts"], "placebo")
    if row is not None:
        yield (
            "The text behind a replaced rock makes up for it (a referee's objection).",
            "loss and edits of the next 32 tokens against the baseline's, rocks less placebos",
            f"{_loss(row)}; {_edits(row, sign=True)}.",
        )


def _training_claims(training: Row) -> Iterable[tuple[str, str, str]]:
    for condition, reference, claim in (
        ("rocks-0", "unweighted", "Training does without the loss of rocks."),
        ("random-0", "rocks-0", "Skipping rocks is better than skipping as much loss at random."),
        ("frequency-0", "rocks-0", "… than skipping the most frequent tokens."),
    ):
        rows = [
            row
            for row in training["contrasts"]
            if (row["condition"], row["reference"]) == (condition, reference)
        ]
        if rows:
            yield (
                claim,
                f"{_trainings(training)}; "
                f"{training['problems']:,} held-out problems: {CONDITIONS[condition]} less "
                f"{CONDITIONS[reference]}, 95% interval over "
                f"{'trainings' if len(training['seeds']) > 1 else 'problems'}",
                "; ".join(f"{row['decoding']} {_over_seeds(row)}" for row in rows) + ".",
            )


# -- sections --------------------------------------------------------------------------------


def census_section(census: Row) -> str:
    """Banned tokens."""
    return "\n".join(
        [
            "## Banned tokens\n",
            "Which tokens does the accuracy depend on? Each rock is banned in turn, as are types\n"
            "of similar loss and of similar frequency, and for each rock that is written a random\n"
            "type that stands in as many answers (placebo). "
            f"{_asked(census)}\n",
            _overall_table(census),
            _decided_table(census),
            _contrast_table(census),
        ]
    )


def replacement_section(replacement: Row) -> str:
    """Replaced tokens."""
    return "\n".join(
        [
            "## Replaced tokens\n",
            "What if the teacher's token stands where the student writes a rock? The first place\n"
            "where the teacher prefers another token is replaced, and the student goes on. "
            f"{_asked(replacement)}\n",
            _overall_table(replacement),
            _contrast_table(replacement),
            "By the third of the answer in which the place lies:\n",
            _thirds_table(replacement),
            "Behind the place, over 32 tokens:\n",
            _after_table(replacement),
            "Rocks less placebos, by the third of the answer:\n",
            _after_thirds_table(replacement),
        ]
    )


def training_section(training: Row) -> str:
    """Trainings with token weights."""
    contrasts = {
        (row["condition"], row["decoding"]): row
        for row in training["contrasts"]
        if row["reference"] == "unweighted"
    }
    right = {(row["condition"], row["decoding"]): row for row in training["accuracies"]}
    rows = []
    for row in training["conditions"]:
        name = row["condition"]
        cells = [
            CONDITIONS[name],
            f"{row['token_types']:.0f}",
            f"{row['loss_share']:.1%}",
            f"{row['token_share']:.1%}",
        ]
        for how in ("greedy", "sampled"):
            cells.append(f"{right[name, how]['accuracy']:.1%}")
            contrast = contrasts.get((name, how))
            cells += ["", ""] if contrast is None else [
                _interval(contrast, "difference", "problems"), _ends(contrast, "seeds")
            ]  # fmt: skip
        rows.append([*cells, f"{row['step_ratio']:.2f}", f"{row['mean_length']:.0f}"])
    header = ("tokens, weight", "types", "of the loss", "of the text",
              "greedy", "over problems", "over trainings",
              "sampled", "over problems", "over trainings", "step time", "tokens")  # fmt: skip
    return "\n".join(
        [
            "## Trained without them\n",
            "Does a student need the loss of rocks? Selections carry as much of the loss as the\n"
            f"rocks{_short(training)}. {_trainings(training)}; "
            f"accuracy on {training['problems']:,} held-out problems,\nand behind it the "
            "difference to no weights in points, with 95% intervals over problems\n(for these "
            "trainings) and over trainings. Step time: CPU time of a step over that\nwithout "
            "weights; tokens: of a rollout.\n",
            table(header, rows),
            *_each_training(training),
        ]
    )


def _each_training(training: Row) -> list[str]:
    """Accuracies of each training, where there are several; which are odd."""
    seeds = training["seeds"]
    if len(seeds) == 1:
        return []
    by_seed = {
        (row["condition"], row["decoding"]): row["by_seed"] for row in training["accuracies"]
    }
    rows, odd = [], []
    for name in dict.fromkeys(row["condition"] for row in training["accuracies"]):
        greedy, sampled = by_seed[name, "greedy"], by_seed[name, "sampled"]
        rows.append([CONDITIONS[name], *(f"{one:.1%}" for one in (*greedy, *sampled))])
        odd += [
            f"{CONDITIONS[name]}, seed {seed}"
            for seed, *both in zip(seeds, greedy, sampled, strict=True)
            if both[0] < both[1]
        ]
    header = [f"{how}, seed {seed}" for how in ("greedy", "sampled") for seed in seeds]
    parts = ["Each training by itself:\n", table(["tokens, weight", *header], rows)]
    if odd:
        parts.append(
            f"Worse by greedy decoding than by sampling: {'; '.join(odd)}. There the likeliest "
            "token is wrong at\nsome place where most draws are right, so that one choice decides "
            "over many problems; the mean\nover trainings says little then.\n"
        )
    return parts


def language_section(language: Row) -> str:
    """The replacement on a language model."""
    which = f"It has {language['rocks']} rocks."
    if language["rule"] == "top-k":
        which = (
            "By the test at a false\ndiscovery rate of 5% its log has no rocks; those of the "
            f"tables are the {language['rocks']} tokens that\nthe paper's rule names in it "
            "(`detect --rule top-k`)."
        )
    model = "The toy models in place of a language model."
    if language["step"] is not None:
        model = (
            "SmolLM2-135M without six of its layers, after "
            f"{language['step']} steps of distillation from the whole model."
        )
    return "\n".join(
        [
            "## A language model\n",
            f"{model} {which}\n",
            f"{language['prompts']:,} prompts that training has not seen, one draw each at "
            "temperature 1. There is no\nright answer; what a replacement does is the loss and the "
            "edits of the next 32 tokens.\n",
            _after_table(language),
        ]
    )


# -- tables ----------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, with an empty line behind it."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n"
                   for line in lines)  # fmt: skip


def _overall_table(result: Row) -> str:
    power = {row["group"]: row for row in result["power"]}
    rows = []
    for group, name in GROUPS.items():
        row = _group(result["global"], group)
        if row is None:
            continue
        smallest = power[group]["minimum_effect"] if group in power else None
        rows.append(
            [name, str(row["arms"]), str(row["never_fired"])]
            + [str(row[key]) for key in ("pillar", "stumbling", "equivalent", "inconclusive")]
            + [_interval(row, "mean_delta", "ci"), "" if smallest is None else _points(smallest)]
        )
    header = ("tokens", "arms", "never act", "lower", "raise", "equivalent", "undecided",
              "mean change (points)", "smallest effect told")  # fmt: skip
    return table(header, rows)


def _decided_table(result: Row) -> str:
    rows = [
        [
            _token(row),
            GROUPS[row["group"]],
            row["category"],
            _interval(row, "delta", "ci"),
            _probability(row["p_holm"]),
        ]
        for row in result["arms"]
        if row["category"] in ("pillar", "stumbling")
    ]
    if not rows:
        return "No ban of a single token changes the accuracy by a point or more.\n"
    return table(("token", "among", "is", "change (points)", "p (Holm)"), rows)


def _contrast_table(result: Row) -> str:
    rows = [
        [
            GROUPS[row["control_group"]],
            str(row["pairs"]),
            _interval(row, "difference", "ci"),
            _ends(row, "pairs"),
        ]
        for row in result["contrasts"]
    ]
    if not rows:
        return "No rock and its control both act, so that rocks have no controls to compare with.\n"
    header = ("rocks less", "pairs", "difference (points)", "over pairs")
    return (
        "Difference, with 95% intervals over problems (for these tokens) and over pairs\n"
        f"(for rocks as a kind of token):\n\n{table(header, rows)}"
    )


def _thirds_table(result: Row) -> str:
    found = {(row["group"], row["cohort"]): row for row in result["cohorts"]
             if row["kind"] == "position"}  # fmt: skip
    thirds = ("early", "middle", "late")
    rows = [
        [
            name,
            *(_told(found.get((group, third))) for third in thirds),
        ]
        for group, name in GROUPS.items()
        if any((group, third) in found for third in thirds)
    ]
    return table(("tokens", *thirds), rows)


def _told(row: Row | None) -> str:
    """A change, where there are enough problems for an interval."""
    if row is None:
        return ""
    return "too few" if row["ci_low"] is None else _interval(row, "delta", "ci")


def _after_table(result: Row) -> str:
    rows = [
        [name, f"{row['rows']:,}", "", _loss(row), _edits(row)]
        for group, name in GROUPS.items()
        if (row := _group(result["compensation"], group)) is not None
    ]
    rows += [
        [f"rocks less {name}", "", str(row["pairs"]), _loss(row), _edits(row, sign=True)]
        for group, name in GROUPS.items()
        if (row := _against(result["compensation_contrasts"], group)) is not None
    ]
    return table(("tokens", "places", "pairs", "change of the loss", "edits"), rows)


def _after_thirds_table(result: Row) -> str:
    rows = [
        [
            row["cohort"],
            str(row["pairs"]),
            _number(row, "loss_difference", "nats"),
            _number(row, "edit_difference", "of the tokens edited"),
        ]
        for row in result["compensation_cohorts"]
        if (row["kind"], row["group"]) == ("position", "placebo") and row["pairs"]
    ]
    return table(("third", "pairs", "change of the loss", "edits"), rows)


# -- words -----------------------------------------------------------------------------------


def _asked(result: Row) -> str:
    source = result["sources"][0]
    return (
        f"{source['problems']:,} problems, {_decoding(result)};\naccuracy without intervention "
        f"{source['accuracy']:.1%}."
    )


def _decoding(result: Row) -> str:
    temperature = result["sources"][0]["decoding"]["temperature"]
    return "greedy decoding" if temperature == "greedy" else f"temperature {temperature:g}"


def _group(rows: Iterable[Row], group: str) -> Row | None:
    return next((row for row in rows if row["group"] == group), None)


def _against(rows: Iterable[Row], group: str) -> Row | None:
    return next((row for row in rows if row["against"] == group), None)


def _categories(row: Row) -> str:
    return (
        f"{row['equivalent']} of {row['arms']} are equivalent, {row['pillar']} lower and "
        f"{row['stumbling']} raise the accuracy, {row['inconclusive']} are undecided"
    )


def _points(share: float, sign: bool = False) -> str:
    return f"{100 * share:+.2f}" if sign else f"{100 * share:.2f}"


def _interval(row: Row, key: str, ends: str) -> str:
    """A share in percentage points, with its interval where there is one."""
    low, high = row[f"{ends}_low"], row[f"{ends}_high"]
    shown = _points(row[key], sign=True)
    if low is None or high is None:
        return shown
    return f"{shown} ({_ends(row, ends)})"


def _token(row: Row) -> str:
    """Its text, in one line, or its id."""
    if row["token"] is None:
        return str(row["token_id"])
    text = row["token"].replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f"`{text}`"


def _probability(p: float) -> str:
    return "< 1e-10" if p < 1e-10 else f"{p:.2g}"


def _ends(row: Row, ends: str) -> str:
    """The interval alone."""
    low, high = row[f"{ends}_low"], row[f"{ends}_high"]
    if low is None or high is None:
        return ""
    return f"{_points(low, sign=True)} to {_points(high, sign=True)}"


def _over_seeds(row: Row) -> str:
    over = "problems" if row["seeds_low"] is None else "seeds"
    shown = f"{_interval(row, 'difference', over)} points"
    return shown if row["p_holm"] is None else f"{shown}, p (Holm) = {row['p_holm']:.2g}"


def _loss(row: Row) -> str:
    return _number(row, "loss_change", "nats")


def _edits(row: Row, sign: bool = False) -> str:
    return _number(row, "edit_after", "of the tokens edited", sign)


def _number(row: Row, key: str, unit: str, sign: bool = True) -> str:
    value, low, high = row[key], row[f"{key}_low"], row[f"{key}_high"]
    if value is None:
        return "not recorded"
    how = "+.3f" if sign else ".3f"
    around = "" if low is None or high is None else f" ({low:{how}} to {high:{how}})"
    return f"{value:{how}}{around} {unit}"


def _short(training: Row) -> str:
    """Which selections carry less of the loss than the rocks, as too few types can be selected."""
    shares = {row["condition"]: row["loss_share"] for row in training["conditions"]}
    short = [CONDITIONS[name] for name, share in shares.items()
             if name != "unweighted" and share < shares["rocks-0"] - 0.01]  # fmt: skip
    return f", but less where too few types can be selected ({'; '.join(short)})" if short else ""


def _trainings(training: Row) -> str:
    count, steps = len(training["seeds"]), training["steps"]
    return (
        f"{count} training{'' if count == 1 else 's'} of each, of {steps} "
        f"step{'' if steps == 1 else 's'}"
    )
