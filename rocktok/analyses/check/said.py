"""Findings from what a log says of its run: ids, tokenizers, templates, trainer's losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rocktok.analyses.check.grading import Number, finding, percent, unknown
from rocktok.analyses.check.result import Finding, Severity

_RECORD = "record with the TRL hook of this version, which writes it into run.json"


@dataclass(frozen=True)
class Said:
    """What run.json and the manifests say; None where they do not.

    Attributes:
        terminal: ids that end a text, by model ("student", "teacher").
        special: ids of special tokens.
        tokenizers: how the two tokenizers agree, as run.json holds it.
        max_completion_length: tokens after which a text was cut.
        sampling: settings of the rollouts.
        temperature: of the student in the loss.
        trained: whether the recorded loss is the trained one.
        compares: whether the recorder held its losses against the trainer's.
        mismatches: calls in which they differed; None: no manifests.
        vocab_size: width of the student's logits.
    """

    terminal: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    special: tuple[int, ...] | None = None
    tokenizers: Mapping[str, object] | None = None
    max_completion_length: int | None = None
    sampling: Mapping[str, object] | None = None
    temperature: float | None = None
    trained: bool | None = None
    compares: bool = False
    mismatches: int | None = None
    vocab_size: int | None = None

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids that end a text for either model, ascending."""
        return tuple(sorted({i for ids in self.terminal.values() for i in ids or ()}))

    def part(self, *names: str) -> object:
        """A value within `tokenizers`; None where it is not there."""
        at: object = self.tokenizers
        for name in names:
            at = at.get(name) if isinstance(at, Mapping) else None
        return at


def terminal_ids(said: Said) -> Finding:
    """Whether both models end their texts with the same tokens."""
    measure = "terminal ids of only one model"
    student, teacher = (said.terminal.get(model) for model in ("student", "teacher"))
    if not student or not teacher:
        who = "either model" if not student and not teacher else (
            "the student" if not student else "the teacher")  # fmt: skip
        why = f"run.json does not say which ids end a text for {who}."
        return unknown("terminal_ids", why, _RECORD, measure=measure)
    only = {"student": sorted({*student} - {*teacher}), "teacher": sorted({*teacher} - {*student})}
    number = Number(float(len(only["student"]) + len(only["teacher"])))
    severity: Severity = "ok"
    text = f"Student and teacher end their texts with the same ids: {_listed(student)}."
    if number.value:
        severity = "warning" if {*student} & {*teacher} else "problem"
        text = (
            f"The student ends its texts with {_listed(student)}, the teacher with "
            f"{_listed(teacher)}."
        )
    return finding(
        "terminal_ids",
        severity,
        text,
        number=number,
        measure=measure,
        remedy="give both models the same EOS: set generation_config.eos_token_id of both to the "
        "same ids, and use the chat template that the teacher was tuned with",
        student=list(student),
        teacher=list(teacher),
    )


def tokenizer(said: Said) -> Finding:
    """Whether a token id means the same to both models."""
    measure = "token ids with different texts"
    state, differ = said.part("teacher_tokenizer"), said.part("tokens_differ")
    if state != "found" or not isinstance(differ, int):
        why = "The teacher's tokenizer was not available when recording began."
        if said.tokenizers is None:
            why = "run.json does not say whether the tokenizers agree."
        remedy = (
            "load the teacher from a folder or a Hub name whose tokenizer is on this machine, and "
            "record with the TRL hook of this version"
        )
        return unknown("tokenizer", why, remedy, measure=measure)
    special = said.part("special_differ")
    names = [str(one) for one in special] if isinstance(special, Sequence) else []
    severity: Severity = "problem" if differ else "warning" if names else "ok"
    text = "Both tokenizers give every id the same text."
    if differ:
        text = f"{differ:,} token ids have different texts for teacher and student."
    elif names:
        text = f"The tokenizers' special tokens differ: {_few(names)}."
    return finding(
        "tokenizer",
        severity,
        text,
        number=Number(float(differ)),
        measure=measure,
        remedy="use a teacher with the student's tokenizer; losses on other ids are meaningless",
        special_differ=names,
    )


def template(said: Said) -> Finding:
    """Whether both tokenizers write a conversation alike."""
    measure = "chat templates that differ"
    same = said.part("template", "same")
    if not isinstance(same, bool):
        why = "run.json does not say whether the chat templates agree."
        if said.part("teacher_tokenizer") == "absent":
            why = "The teacher's tokenizer and chat template were not available."
        elif said.tokenizers is not None:
            why = "The chat templates could not be compared: one of the models has none."
        remedy = (
            "load the teacher from a folder or a Hub name whose tokenizer and chat template are on "
            "this machine, and record with the TRL hook of this version"
        )
        return unknown("template", why, remedy, measure=measure)
    difference = said.part("template", "first_difference")
    text = "Both chat templates render a test conversation identically."
    if not same:
        where = f": {difference}" if difference else ""
        text = f"The teacher's chat template renders a test conversation differently{where}."
    return finding(
        "template",
        "ok" if same else "warning",
        text,
        number=Number(float(not same)),
        measure=measure,
        remedy="score and sample with the template that the teacher was tuned with",
        first_difference=difference,
    )


@dataclass(frozen=True)
class Used:
    """Which ids stand in the text, and what is known of them.

    Attributes:
        positions: rows of the step.
        types: distinct ids in them.
        known: tokens of the tokenizer; None: the log has no vocabulary.
        beyond: rows whose id has no text.
        mass: model → its mean mass on ids without a text, as far as alternatives tell.
    """

    positions: int
    types: int
    known: int | None
    beyond: int
    mass: Mapping[str, float]


#: Share of positions, or of a model's mass, on ids that are no token: from which on it matters.
BEYOND = 0.01


def vocabulary(said: Said, used: Used) -> Finding:
    """Whether the widths agree, and whether ids that are no token are used."""
    measure = "share of positions whose id is not a token"
    widths = {m: said.part("vocab_width", m) for m in ("student", "teacher")}
    if widths["student"] is None:
        widths["student"] = said.vocab_size
    student, teacher = widths["student"], widths["teacher"]
    apart = isinstance(student, int) and isinstance(teacher, int) and student != teacher
    details: dict[str, object] = {
        "student_width": student,
        "teacher_width": teacher,
        "tokens": used.known,
        "types_used": used.types,
        **{f"{model}_mass": mass for model, mass in used.mass.items()},
    }
    remedy = (
        "mask the ids beyond the tokenizer's vocabulary in both heads (bias −inf), or cut both "
        "heads to its size"
    )
    if used.known is None and not apart:
        why = "The log has no vocab.parquet, so it is unknown which ids are tokens."
        give = "record with the tokenizer, or write vocab.parquet (token_id, token)"
        return unknown("vocabulary", why, give, measure=measure)
    share = used.beyond / used.positions if used.known is not None else None
    mass = max(used.mass.values(), default=0.0)
    severity: Severity = "ok"
    text = "Every id in the text is a token."
    if isinstance(student, int) and used.known is not None and student > used.known:
        text = (
            f"{student - used.known:,} of {student:,} ids are not tokens (padding), and none of "
            "them occurs in the text."
        )
    if used.beyond:
        severity = "warning" if (share or 0) >= BEYOND else "note"
        text = f"{percent(share)} of the positions have an id that is not a token (padding)."
    elif mass >= BEYOND:
        severity = "warning"
        text = f"A model puts at least {percent(mass)} of its mass on ids that are not tokens."
    if apart:
        severity = "warning"
        text = f"The student's logits are {student:,} wide, the teacher's {teacher:,}; " + (
            text[0].lower() + text[1:] if used.known is not None else "it is unknown which ids "
            "are tokens."
        )  # fmt: skip
    return finding(
        "vocabulary",
        severity,
        text,
        number=Number(share),
        measure=measure,
        remedy=remedy,
        **details,
    )


def loss_mismatch(said: Said) -> Finding:
    """Whether the recorded losses are those that the trainer computed."""
    measure = "calls whose recorded loss differs from the trainer's"
    if said.mismatches:
        calls = "1 call" if said.mismatches == 1 else f"{said.mismatches:,} calls"
        text = f"In {calls} the recorded losses do not sum to the trainer's own loss."
        return finding(
            "loss_mismatch",
            "problem",
            text,
            number=Number(float(said.mismatches)),
            measure=measure,
            remedy="do not trust this log until the cause is known; the recorder's warning names "
            "the first call",
        )
    if said.mismatches is None or not said.compares:
        why = "The log was not recorded by a hook that knows the trainer's own loss."
        remedy = "record with the TRL hook, or compare a step's mean loss with what your loop logs"
        return unknown("loss_mismatch", why, remedy, measure=measure)
    if said.trained is not True:
        why = "The trained divergence is not the recorded reverse KL: losses were not compared."
        remedy = "train with beta=1 to compare the recorded loss with the trainer's"
        return unknown("loss_mismatch", why, remedy, measure=measure)
    text = "Every recorded call sums to the trainer's own loss."
    return finding("loss_mismatch", "ok", text, number=Number(0.0), measure=measure)


def _listed(ids: Sequence[int]) -> str:
    return _few([str(i) for i in ids])


def _few(items: Sequence[str], most: int = 8) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
