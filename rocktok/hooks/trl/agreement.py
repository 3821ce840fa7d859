"""Whether student and teacher read text alike: tokens, special tokens, widths, chat templates.

What differs is said when recording starts, and stands in run.json, so that `rocktok check` can say
it, too. Nothing here stops a training: what cannot be compared is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Roles of special tokens that are compared: those that a model sees, or is asked to write.
_ROLES = ("bos_token", "eos_token", "unk_token")

#: The conversation on which chat templates are tried.
_CONVERSATION = [{"role": "user", "content": "How many?"}]

#: Characters that are shown from where two texts differ.
_SHOWN = 24


def tokenizer_facts(
    student: Any, teacher: Any | None, student_width: int | None, teacher_width: int | None
) -> dict[str, Any]:
    """What differs between two tokenizers, and between the widths of the models' logits.

    Args:
        student, teacher: tokenizers of transformers; None: the teacher's is not at hand.
        student_width, teacher_width: widths of the logits.

    Returns a mapping for run.json: `teacher_tokenizer` ("found" or "absent"), `vocab_width`,
    `tokens_differ` (ids with another text in either), `special_differ` (one text each), `template`
    (`same`: None where there is nothing to compare). Those that take both tokenizers are None
    without the teacher's.
    """
    there = teacher is not None
    return {
        "teacher_tokenizer": "found" if there else "absent",
        "vocab_width": {"student": student_width, "teacher": teacher_width},
        "tokens_differ": _tokens_differ(student, teacher) if there else None,
        "special_differ": list(_special_differ(student, teacher)) if there else None,
        "template": _template(student, teacher),
    }


def differences(run: Mapping[str, Any]) -> list[str]:
    """One line for each thing in which student and teacher differ; `run`: as for run.json."""
    facts = run.get("tokenizers") or {}
    ends = run.get("terminal_ids") or {}
    student, teacher = ends.get("student"), ends.get("teacher")
    lines = []
    if student and teacher and student != teacher:
        lines.append(
            f"the student ends its texts with token ids {_listed(student)}, the teacher with "
            f"{_listed(teacher)}: texts grow or break off where the teacher ends them otherwise"
        )
    if facts.get("tokens_differ"):
        lines.append(
            f"{facts['tokens_differ']:,} token ids mean another text to the teacher than to the "
            "student: losses on them mean nothing"
        )
    if facts.get("special_differ"):
        lines.append(f"special tokens differ: {'; '.join(facts['special_differ'])}")
    widths = facts.get("vocab_width") or {}
    wide, other = widths.get("student"), widths.get("teacher")
    if wide and other and wide != other:
        lines.append(f"the student's logits are {wide:,} wide, the teacher's {other:,}")
    template = facts.get("template") or {}
    if template.get("same") is False:
        lines.append(
            "the chat templates of student and teacher write a conversation differently: "
            f"{template['first_difference']}"
        )
    return lines


def _tokens_differ(student: Any, teacher: Any) -> int | None:
    """Ids that both tokenizers have, with another text in either; None: they cannot be listed."""
    try:
        mine, theirs = (
            {number: text for text, number in one.get_vocab().items()} for one in (student, teacher)
        )
    except Exception:  # a tokenizer of one's own may raise anything
        return None
    return len([n for n, text in mine.items() if theirs.get(n, text) != text])


def _special_differ(student: Any, teacher: Any) -> Iterator[str]:
    """Roles whose token is not the same for both."""
    for role in _ROLES:
        mine, theirs = (_in_role(one, role) for one in (student, teacher))
        if mine != theirs:
            yield f"{role} {_shown(mine)} in the student's, {_shown(theirs)} in the teacher's"


def _in_role(tokenizer: Any, role: str) -> tuple[str, Any] | None:
    text = getattr(tokenizer, role, None)
    return None if text is None else (str(text), getattr(tokenizer, f"{role}_id", None))


def _shown(token: tuple[str, Any] | None) -> str:
    return "none" if token is None else f"{token[0]!r} ({token[1]})"


def _template(student: Any, teacher: Any | None) -> dict[str, Any]:
    """Whether both chat templates write one conversation alike, and where they part."""
    if teacher is None:
        return {"same": None, "first_difference": None}
    templates = [getattr(one, "chat_template", None) for one in (student, teacher)]
    if not any(templates):
        # Prompts are texts then, and reach both models as they are.
        return {"same": True, "first_difference": None}
    mine, theirs = (_rendered(one) for one in (student, teacher))
    if mine is None or theirs is None:
        return {"same": None, "first_difference": None}
    if mine == theirs:
        return {"same": True, "first_difference": None}
    return {"same": False, "first_difference": _first_difference(mine, theirs)}


def _rendered(tokenizer: Any) -> str | None:
    if not getattr(tokenizer, "chat_template", None):
        return None
    # Templates are programs of their own: any may fail, in any way.
    try:
        return str(
            tokenizer.apply_chat_template(_CONVERSATION, tokenize=False, add_generation_prompt=True)
        )
    except Exception:
        return None


def _first_difference(mine: str, theirs: str) -> str:
    pairs = enumerate(zip(mine, theirs, strict=False))
    at = next((i for i, (one, other) in pairs if one != other), min(len(mine), len(theirs)))
    here, there = (_part(text, at) for text in (mine, theirs))
    return f"at character {at}, {here} by the student's, {there} by the teacher's"


def _part(text: str, at: int) -> str:
    return repr(text[at : at + _SHOWN]) if at < len(text) else "the end"


def _listed(ids: list[int]) -> str:
    return ", ".join(map(str, ids))
