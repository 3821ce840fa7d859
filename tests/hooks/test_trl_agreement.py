"""Whether two tokenizers agree: what is stored, what is said, and that nothing stops a training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rocktok.hooks.trl.agreement import differences, tokenizer_facts
from rocktok.hooks.trl.describe import teacher_tokenizer
from tests.trl_models import END, PAD, make_tokenizer

TEMPLATE = "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}<bot>"


def with_template(text: str | None, **changes: str) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = text
    for role, token in changes.items():
        setattr(tokenizer, role, token)
    return tokenizer


class Odd:
    """A tokenizer of one's own, of which everything fails."""

    chat_template = "x"

    def get_vocab(self) -> dict[str, int]:
        raise RuntimeError("no vocabulary")

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        raise RuntimeError("no template")


def lines(mine: Any, theirs: Any, widths: tuple[int, int], **ends: list[int]) -> list[str]:
    facts = tokenizer_facts(mine, theirs, *widths)
    return differences({"tokenizers": facts, "terminal_ids": ends})


def test_the_same_tokenizer_says_nothing() -> None:
    one = with_template(TEMPLATE)
    facts = tokenizer_facts(one, with_template(TEMPLATE), 300, 300)
    assert facts == {
        "teacher_tokenizer": "found",
        "vocab_width": {"student": 300, "teacher": 300},
        "tokens_differ": 0,
        "special_differ": [],
        "template": {"same": True, "first_difference": None},
    }
    assert lines(one, with_template(TEMPLATE), (8, 8), student=[0], teacher=[0]) == []
    assert differences({}) == []


def test_without_the_teachers_nothing_is_known() -> None:
    facts = tokenizer_facts(make_tokenizer(), None, 8, 9)
    assert facts["teacher_tokenizer"] == "absent"
    assert facts["tokens_differ"] is facts["special_differ"] is None
    assert facts["template"] == {"same": None, "first_difference": None}
    assert differences({"tokenizers": facts}) == [
        "the student's logits are 8 wide, the teacher's 9"
    ]


def test_each_difference_is_a_line() -> None:
    student, teacher = with_template(TEMPLATE), with_template(f"{TEMPLATE}\n\n", eos_token=PAD)
    assert lines(student, teacher, (320, 1000), student=[0], teacher=[0, 1]) == [
        "the student ends its texts with token ids 0, the teacher with 0, 1: the student's texts "
        "may become too long or end too early",
        f"special tokens differ: eos_token {END!r} (0) in the student's, {PAD!r} (1) in the "
        "teacher's",
        "the student's logits are 320 wide, the teacher's 1,000",
        "the chat templates of student and teacher render a conversation differently: at character "
        "20, the end (student), '\\n' (teacher)",
    ]


def test_ids_with_another_text_are_counted() -> None:
    class Shifted:
        def get_vocab(self) -> dict[str, int]:
            return {text: number + 3 for text, number in make_tokenizer().get_vocab().items()}

    facts = tokenizer_facts(make_tokenizer(), Shifted(), 8, 8)
    assert facts["tokens_differ"] == len(make_tokenizer()) - 3
    said = differences({"tokenizers": facts})
    assert said[0].startswith(f"{facts['tokens_differ']:,} token ids have different texts for")


@pytest.mark.parametrize(
    ("mine", "theirs", "same"),
    [(None, None, True), (TEMPLATE, None, None), (None, TEMPLATE, None), (TEMPLATE, "{{", None)],
)
def test_a_template_that_is_not_there(mine: str | None, theirs: str | None, same: Any) -> None:
    facts = tokenizer_facts(with_template(mine), with_template(theirs), 8, 8)
    assert facts["template"] == {"same": same, "first_difference": None}


def test_what_fails_is_not_known() -> None:
    facts = tokenizer_facts(make_tokenizer(), Odd(), None, None)
    assert facts["tokens_differ"] is None
    assert facts["template"] == {"same": None, "first_difference": None}
    assert all("template" not in line for line in differences({"tokenizers": facts}))


def test_the_tokenizer_of_a_teacher_from_the_hub_is_read_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--model"
    snapshot = folder / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    (snapshot / "config.json").write_text("{}")
    # Of a model without tokenizer files transformers would make one up.
    assert teacher_tokenizer(model_of("owner/model")) is None
    make_tokenizer().save_pretrained(snapshot)
    found = teacher_tokenizer(model_of("owner/model"))
    assert found is not None and found.get_vocab() == make_tokenizer().get_vocab()
    for name in ("", "owner/other", "model", "a/b/c", str(tmp_path / "nowhere")):
        assert teacher_tokenizer(model_of(name)) is None


def model_of(path: str) -> Any:
    """As much of a model as names what it was loaded from."""
    return SimpleNamespace(config=SimpleNamespace(_name_or_path=path))
