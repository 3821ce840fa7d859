"""Data for pages: of the sample log, tiny by hand, and of a vocabulary that means harm."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np

from tests.paths import SAMPLE

Data = dict[str, Any]

COLUMNS = [
    ("rank", "rank", "integer", "place in the ranking by context Rock Score"),
    ("token", "token", "token", "text of the type"),
    ("token_id", "id", "integer", "id in the vocabulary"),
    ("frequency", "freq", "integer", "occurrences in the log's fixed text"),
    ("prompts", "prompts", "integer", "prompts whose text holds it"),
    ("mean_loss", "loss", "number", "mean loss at the last step, nats"),
    ("loss_share", "share", "percent", "share of all loss that the type carries"),
    ("persistent", "persist", "integer", "occurrences hard at both steps"),
    ("retained", "retain", "integer", "persistent occurrences in consistent contexts"),
    ("ccr", "CCR", "number", "retained occurrences over all occurrences"),
    ("context_rock_score", "R_ctx", "number", "Rock Score times CCR"),
    ("cluster", "cluster", "integer", "types that are hard in like contexts"),
    ("flags", "flags", "flags", "what to know of the row"),
]
VALUES = [
    ("loss", "loss", "nats"),
    ("student_entropy", "student entropy", "nats"),
    ("teacher_entropy", "teacher entropy", "nats"),
    ("grad_norm", "gradient norm", "nats/logit"),
]


def figure(name: str, width: str = "one") -> Data:
    """A figure as matplotlib makes it."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    made = Figure(figsize=(7.0 if width == "two" else 3.4, 2.4), layout="constrained")
    axes = made.subplots()
    steps = np.linspace(1, 6, 40)
    axes.plot(steps, 2 / steps, label="all types")
    axes.plot(steps, 1.5 + 0.1 * np.sin(3 * steps), label="rocks")
    axes.set_xlabel("step (hundreds)")
    axes.set_ylabel("mean loss (nats)")
    axes.legend()
    sink = io.BytesIO()
    FigureCanvasSVG(made).print_svg(sink)
    return {
        "name": name,
        "title": name.replace("-", " ").capitalize(),
        "caption": "Mean loss of rocks and of all types over the steps, on the same text.",
        "alt": "Two curves: the mean of all types falls from 2 to 0.3 nats, that of rocks stays.",
        "svg": sink.getvalue().decode(),
        "width": width,
    }


@cache
def _sample_rows() -> tuple[list[int], dict[int, Any], dict[int, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = sorted(SAMPLE.glob("fixed/*/*.parquet"))
    table = pa.concat_tables([pq.read_table(shard) for shard in shards])
    vocab = pq.read_table(SAMPLE / "vocab.parquet").to_pylist()
    texts = {row["token_id"]: row["bytes"].decode("utf-8", "backslashreplace") for row in vocab}
    frame = table.to_pandas().sort_values(["step", "sequence_id", "position"])
    steps = sorted(frame["step"].unique().tolist())
    return steps, {step: frame[frame["step"] == step] for step in steps}, texts


def sample(sequences: int = 20) -> Data:
    """The sample log: `detect`'s own rows; contexts and their rates are stand-ins."""
    import pyarrow.parquet as pq

    import rocktok

    found = rocktok.detect(rocktok.open(str(SAMPLE)))
    steps, by_step, texts = _sample_rows()
    sequence_rows = {
        row["sequence_id"]: row
        for shard in sorted(SAMPLE.glob("sequences/*.parquet"))
        for row in pq.read_table(shard).to_pylist()
    }
    first, last = by_step[steps[0]], by_step[steps[-1]]
    hard = (first["loss"].to_numpy() >= found.thresholds["tau_pre"]) & (
        last["loss"].to_numpy() >= found.thresholds["tau_post"]
    )
    rocks = {row["token_id"] for row in found.rocks}
    tokens = last["token_id"].to_numpy()
    kept = hard & np.isin(tokens, sorted(rocks)) & (np.arange(len(tokens)) % 3 > 0)
    ids = last["sequence_id"].to_numpy()
    shown = sorted(set(ids.tolist()))[:sequences]
    text_rows = []
    for sequence_id in shown:
        where = ids == sequence_id
        about = sequence_rows[sequence_id]
        prompt = "".join(texts[token] for token in about["prompt_token_ids"])
        text_rows.append(
            {
                "sequence_id": sequence_id,
                "prompt_id": about["prompt_id"],
                "prompt": prompt,
                "token_ids": tokens[where].tolist(),
                "positions": last["position"].to_numpy()[where].tolist(),
                "retained": kept[where].astype(int).tolist(),
                "persistent": hard[where].astype(int).tolist(),
                "values": {
                    key: [by_step[step][key].to_numpy()[where].tolist() for step in steps]
                    for key, _, _ in VALUES
                },
            }
        )
    used = {token for row in text_rows for token in row["token_ids"]}
    rows = [
        {**row, "cluster": row["rank"] % 7 if row["rank"] % 5 else None} for row in found.tokens
    ]
    contexts = [_rock(row, tokens, kept, ids, last, first, texts) for row in rows if row["is_rock"]]
    return {
        "title": "Rock tokens in sample_data/opd",
        "created": "2026-01-31",
        "version": rocktok.__version__,
        "log": {
            "path": "sample_data/opd",
            "run": found.log["run_id"],
            "student": "Qwen3, 3 layers, width 96",
            "teacher": "Qwen3, 4 layers, width 160",
            "table": "fixed",
            "steps": steps,
            "positions": f"{found.totals['positions']:,}",
            "sequences": f"{found.totals['sequences']:,}",
        },
        "summary": [
            {
                "text": f"There are {len(rocks)} rock tokens: types that are hard at step 8 and "
                "still hard at step 500, in contexts that recur. They carry most of the loss.",
                "numbers": [
                    {"label": "rock tokens", "value": str(len(rocks))},
                    {"label": "of the positions", "value": "71.7%"},
                    {"label": "of the loss at step 500", "value": "87.7%"},
                    {"label": "of the summed gradient norms", "value": "93.4%"},
                ],
            },
            {
                "text": "They learn less than types of the same first loss and frequency: their "
                "loss falls to 0.61 of what it was, that of the others to 0.34.",
                "numbers": [
                    {"label": "loss kept, rocks", "value": "0.61"},
                    {"label": "loss kept, controls", "value": "0.34"},
                    {"label": "95% interval of the ratio", "value": "1.4 to 2.2"},
                ],
            },
        ],
        "notes": list(found.notes) or ["one log is one training run"],
        "missing": [
            {
                "what": "Interventions",
                "why": "the log has no outcomes table",
                "remedy": "rocktok intervene makes one",
            }
        ],
        "figures": [figure("rocks-over-steps", "two"), figure("density"), figure("coverage")],
        "table": {
            "columns": [
                dict(zip(("key", "label", "kind", "help"), column, strict=True))
                for column in COLUMNS
            ],
            "rows": rows,
            "total": 1022,
            "shown": len(rows),
        },
        "rocks": contexts,
        "text": {
            "table": "fixed",
            "steps": steps,
            "columns": [
                {"key": key, "label": label, "unit": unit, "by_step": True}
                for key, label, unit in VALUES
            ],
            "tokens": {str(token): texts[token] for token in sorted(used)},
            "rocks": sorted(rocks),
            "sequences": text_rows,
            "shown": len(text_rows),
            "total": found.totals["sequences"],
            "capped": "The sequences with the most retained occurrences; --sequences shows more.",
        },
    }


def _rock(
    row: Data, tokens: Any, kept: Any, ids: Any, last: Any, first: Any, texts: dict[int, str]
) -> Data:
    places = np.flatnonzero((tokens == row["token_id"]) & kept)
    contexts = []
    for place in places[:8].tolist():
        near = [k for k in range(place - 8, place + 9) if 0 <= k < len(ids)]
        near = [k for k in near if ids[k] == ids[place]]
        contexts.append(
            {
                "sequence_id": int(ids[place]),
                "position": int(last["position"].iloc[place]),
                "rate": 0.9 - 0.05 * len(contexts),
                "loss_pre": float(first["loss"].iloc[place]),
                "loss_post": float(last["loss"].iloc[place]),
                "before": [texts[int(tokens[k])] for k in near if k < place],
                "after": [texts[int(tokens[k])] for k in near if k > place],
            }
        )
    names = ("rank", "token_id", "token", "frequency", "retained", "persistent", "ccr")
    rock = {name: row[name] for name in names}
    return {**rock, "contexts": contexts, "total_contexts": row["retained"]}


def small(texts: dict[int, str] | None = None, steps: tuple[int, ...] = (10, 20, 30)) -> Data:
    """A page by hand: four types, two sequences with a gap, exact numbers. All texts replaceable.

    Losses at step k of `steps` are (type + 1) / (k + 1), so ranks and ends can be said beforehand.
    """
    texts = texts or {0: "So", 1: " the", 2: "\n", 3: "x"}
    ids = sorted(texts)
    sequences = []
    for number, order in enumerate((ids * 3, list(reversed(ids)) * 2)):
        gap = [position if position < len(ids) else position + 5 for position in range(len(order))]
        sequences.append(
            {
                "sequence_id": 40 + number,
                "prompt_id": f"prompt-{number}",
                "prompt": "".join(texts.values()),
                "token_ids": order,
                "positions": gap,
                "retained": [int(token == ids[0]) for token in order],
                "persistent": [int(token in ids[:2]) for token in order],
                "values": {
                    "loss": [[(token + 1) / (k + 1) for token in order] for k in range(len(steps))],
                    "entropy": [[None if token == ids[-1] else 0.5 for token in order]],
                },
            }
        )
    rows = [
        {
            "rank": rank + 1,
            "token_id": token,
            "token": texts[token],
            "frequency": [30, 200, 7, 1000][rank % 4],
            "mean_loss": [2.5, 0.125, None, 11.0][rank % 4],
            "cluster": [1, 2, None, 1][rank % 4],
            "flags": [["low_power"], [], ["sampled"], []][rank % 4],
            "is_rock": rank < 2,
        }
        for rank, token in enumerate(ids)
    ]
    columns = [column for column in COLUMNS if column[0] in rows[0]]
    return {
        "title": "A small log",
        "log": {"path": "small"},
        "created": None,
        "version": "0.0",
        "summary": [{"text": "Two rocks.", "numbers": [{"label": "rocks", "value": "2"}]}],
        "notes": [],
        "missing": [],
        "figures": [],
        "table": {
            "columns": [
                dict(zip(("key", "label", "kind", "help"), column, strict=True))
                for column in columns
            ],
            "rows": rows,
            "total": 9,
            "shown": len(rows),
        },
        "rocks": [
            {
                "rank": rank + 1,
                "token_id": token,
                "token": texts[token],
                "frequency": 30,
                "retained": 2,
                "persistent": 3,
                "ccr": 0.1,
                "total_contexts": 2,
                "contexts": [
                    {
                        "sequence_id": 41 if rank == 0 else 999,
                        "position": 3,
                        "rate": 0.5,
                        "loss_pre": 2.0,
                        "loss_post": 1.0,
                        "before": list(texts.values()),
                        "after": list(texts.values()),
                    }
                ],
            }
            for rank, token in enumerate(ids[:2])
        ],
        "text": {
            "table": "fixed",
            "steps": list(steps),
            "columns": [
                {"key": "loss", "label": "loss", "unit": "nats", "by_step": True},
                {"key": "entropy", "label": "entropy", "unit": "nats", "by_step": False},
            ],
            "tokens": {str(token): text for token, text in texts.items()},
            "rocks": ids[:2],
            "sequences": sequences,
            "shown": 2,
            "total": 5,
            "capped": None,
        },
    }


#: Each would run, break out, hide or reorder, were it not shown as text.
HARMFUL = (
    "</script><script>window.harmed = 1</script>",
    "<img src=x onerror=\"window.harmed = 1\">",
    "\"><svg onload=window.harmed=1>",
    "' onmouseover='window.harmed=1' x='",
    "<!--<script>",
    "]]></style><script>window.harmed=1</script>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:window.harmed=1",
    "\u202eevil\u2066",
    "\x00\x07\x1b[31m\r",
    "\ud800",
    "a\udfffb",
    "\u2028\u2029",
    "\t  \n\n  ",
    "&lt;b&gt;&amp;",
    "\u0301\u0301",
    "\ue000\ufeff\u200b",
    "שלום",
    "x" * 5000,
    "",
)  # fmt: skip


def harmful() -> Data:
    """Every text on the page, not the tokens' alone, is one of `HARMFUL`, or all of them."""
    data = small(dict(enumerate(HARMFUL)))
    everything = " ".join(HARMFUL)
    data |= {
        "title": everything,
        "created": everything,
        "version": everything,
        "log": {everything: everything},
        "summary": [{"text": everything, "numbers": [{"label": everything, "value": everything}]}],
        "notes": list(HARMFUL),
        "missing": [dict.fromkeys(("what", "why", "remedy"), everything)],
        "figures": [
            {
                **dict.fromkeys(("name", "title", "caption", "alt"), everything),
                "svg": '<svg xmlns="http://www.w3.org/2000/svg"/>',
                "width": "two",
            }
        ],
    }
    for row in data["table"]["rows"]:
        row["flags"] = list(HARMFUL)
    for column in data["table"]["columns"]:
        column |= {"label": everything[:300], "help": everything}
    for column in data["text"]["columns"]:
        column |= {"label": everything[:300], "unit": everything[:300]}
    for sequence in data["text"]["sequences"]:
        sequence |= {"prompt": everything, "prompt_id": everything}
    data["text"]["capped"] = everything
    data["opening"] = {
        "verdict": everything,
        "sure": everything,
        "chips": [
            {
                "token_id": token,
                "token": text,
                "loss_pre": 2.0,
                "loss_post": 1.0,
                "loss_share": 0.1,
                "curve": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}],
                "instead": _others(),
            }
            for token, text in enumerate(HARMFUL)
        ],
    }
    for rock in data["rocks"]:
        rock |= {"flags": list(HARMFUL), "instead": _others()}
    for sequence in data["text"]["sequences"]:
        likely = [[v, 0.5, 0, 0.25] for v in sequence["token_ids"]]
        others = {"teacher": likely, "student": {"30": likely}}
        sequence |= {"domain": everything, "correct": False, "alternatives": others}
    data["text"]["logs"] = [(everything, data["text"]["rocks"])]
    return data


def _others() -> list[Data]:
    return [
        {"token_id": token, "token": text, "teacher": 0.5, "student": 0.1}
        for token, text in enumerate(HARMFUL)
    ]


def large(sequences: int = 20, tokens: int = 1000, steps: int = 20) -> Data:
    """`small` with as much text as a page is made for."""
    data = small({i: f" word{i}" for i in range(300)}, tuple(range(0, 100 * steps, 100)))
    generator = np.random.default_rng(0)
    rows = []
    for number in range(sequences):
        losses = generator.exponential(size=(steps, tokens)).round(4)
        rows.append(
            {
                "sequence_id": number,
                "prompt_id": str(number),
                "prompt": "Why?",
                "token_ids": generator.integers(300, size=tokens).tolist(),
                "positions": list(range(tokens)),
                "retained": (losses[-1] > 3).astype(int).tolist(),
                "persistent": (losses[-1] > 2).astype(int).tolist(),
                "values": {"loss": losses.tolist()},
            }
        )
    data["text"] |= {"sequences": rows, "shown": sequences, "total": sequences}
    return data
