"""The weights file: which target tokens of a training run are weighted, by how much, and why those.

Loads without torch, pyarrow or a log, so that a training process can read it. docs/output.md names
every key.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from rocktok.errors import LogError, UsageError
from rocktok.files import local_path, write_output

SCHEMA = "rocktok.weights/1"

#: Selections that need no further word; beside them "lens:NAME".
SELECTIONS = ("rocks", "frequency", "mean-loss", "grad-norm", "aligned", "random", "control")
LENS = "lens:"

#: What the weighted losses are divided by: the number of tokens, whatever the weights are.
NORMALIZATION = "tokens"

#: Ids are kept as int32; one that stands in a window for "no token there" is this.
MISSING = -1

#: A list of numbers, one a line: within a text there are no line breaks.
_IDS = re.compile(r"\[\n\s*-?\d+(?:,\n\s*-?\d+)*\n\s*\]")

_WANTED = "give what `rocktok weights ROCKS -o FILE.json` writes"


@dataclass(frozen=True)
class Window:
    """Tokens around a retained occurrence: `left` before it, `right` after it, in their order.

    `MISSING` stands where the text has no recorded token at that place.
    """

    token_id: int
    left: tuple[int, ...]
    right: tuple[int, ...]


@dataclass(frozen=True)
class WindowContexts:
    """Windows of retained occurrences, for a radius around contexts that match live.

    Attributes:
        before, after: tokens on each side, w each.
        min_similarity: γ, the least share of the offsets at which two windows have the same token
            for them to match.
        windows: distinct, ascending by token id and tokens.
    """

    before: int
    after: int
    min_similarity: float
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Budget:
    """What the selected types are of the log: shares of its loss at post, and of its positions.

    None where the log has no loss at all.
    """

    loss_share: float | None
    token_share: float | None


@dataclass(frozen=True)
class VocabularyOf:
    """Whose token ids these are: number of ids, and `log.vocab` of every result; None: unknown."""

    size: int | None
    identity: str | None


@dataclass(frozen=True)
class Provenance:
    """Where weights come from: identity of the log, its steps, every parameter, and the version."""

    log: Mapping[str, Any]
    steps: Mapping[str, int | None]
    parameters: Mapping[str, Any]
    rocktok: str


@dataclass(frozen=True)
class Weights:
    """The weight of a target token: `weight` if it is selected, or near enough to a match, else 1.

    The loss of a batch is Σ weight·loss over its tokens, divided by the number of tokens.

    Attributes:
        select: how the types were selected.
        weight: λ, 0 or more.
        radius: positions on each side of a retained context that are weighted, too; 0: none.
        token_ids: distinct, in the order of the selection.
        token_texts: of these, one each.
        contexts: windows to match; None where no radius was asked for.
        budget, vocabulary, provenance: what was selected of the log, and whose ids these are.
    """

    select: str
    weight: float
    radius: int
    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    budget: Budget
    vocabulary: VocabularyOf
    provenance: Provenance
    contexts: WindowContexts | None = None
    normalization: str = field(default=NORMALIZATION)

    def __post_init__(self) -> None:
        """Raises `UsageError` for a value out of range."""
        check_weight(self.weight)
        check_radius(self.radius)
        check_select(self.select)
        if self.normalization != NORMALIZATION:
            raise UsageError(
                f"normalization is {self.normalization!r}; it must be {NORMALIZATION!r}",
                parameter="normalization",
            )
        if len(self.token_texts) != len(self.token_ids):
            raise UsageError(
                f"token_texts has {len(self.token_texts)} texts for {len(self.token_ids)} token "
                "ids; give one for each",
                parameter="token_texts",
            )
        if self.radius and self.contexts is None:
            raise UsageError(
                f"radius is {self.radius}, but there are no contexts to match; give an occurrences "
                "file, or radius 0",
                parameter="radius",
            )
        if len(set(self.token_ids)) < len(self.token_ids):
            raise UsageError("token_ids has an id twice; give each once", parameter="token_ids")
        outside = outside_vocabulary(self.all_ids, self.vocabulary.size)
        if outside is not None:
            raise UsageError(
                f"token_ids has {outside}, outside the vocabulary of {self.vocabulary.size} ids",
                parameter="token_ids",
            )

    @property
    def all_ids(self) -> tuple[int, ...]:
        """Ids that are weighted or matched, selected ones first."""
        windows = () if self.contexts is None else self.contexts.windows
        return (*self.token_ids, *(window.token_id for window in windows))

    def check_vocabulary(
        self, name: str, *, size: int | None = None, identity: str | None = None
    ) -> None:
        """Raise `LogError` where the ids are known to be another vocabulary's, or outside of it.

        Args:
            name: of the file or log, for the message.
            size: ids of the model that is trained. identity: as in `VocabularyOf`.
        """
        if (
            None not in (identity, self.vocabulary.identity)
            and identity != self.vocabulary.identity
        ):
            raise LogError(
                f"{name}: its token ids are of another tokenizer; make the weights from a log of "
                "this one"
            )
        outside = outside_vocabulary(self.all_ids, size)
        if outside is not None:
            raise LogError(
                f"{name}: token id {outside} is outside the vocabulary of {size} ids; make the "
                "weights from a log of this tokenizer"
            )

    def to_dict(self) -> dict[str, Any]:
        """The keys of the file, in their order."""
        contexts = None if self.contexts is None else asdict(self.contexts)
        if contexts is not None:
            for window in contexts["windows"]:
                window["left"], window["right"] = list(window["left"]), list(window["right"])
            contexts["windows"] = list(contexts["windows"])
        return {
            "schema": SCHEMA,
            "select": self.select,
            "weight": self.weight,
            "radius": self.radius,
            "normalization": self.normalization,
            "token_ids": list(self.token_ids),
            "token_texts": list(self.token_texts),
            "contexts": contexts,
            "budget": asdict(self.budget),
            "vocabulary": asdict(self.vocabulary),
            "provenance": {
                "log": dict(self.provenance.log),
                "steps": dict(self.provenance.steps),
                "parameters": dict(self.provenance.parameters),
                "rocktok": self.provenance.rocktok,
            },
        }

    def to_json(self) -> str:
        """The text of the file: ASCII, so that no text of a token steers a terminal."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        return _IDS.sub(lambda ids: " ".join(ids[0].split()), text)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the file, whole or not at all; over another only with `force`.

        Raises `UsageError` if the file exists, `LogError` if it cannot be written.
        """
        write_output(path, self.to_json().encode(), force=force)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Weights:
        """Read a file. Raises `LogError` for one that cannot be read, or breaks a rule."""
        try:
            content = json.loads(local_path(path).read_bytes())
        except OSError as error:
            raise LogError(f"{path}: cannot be read ({error.strerror}); {_WANTED}") from error
        except RecursionError as error:
            raise LogError(f"{path}: is not JSON (nested too deeply); {_WANTED}") from error
        except (ValueError, MemoryError) as error:
            raise LogError(f"{path}: is not JSON ({error}); {_WANTED}") from error
        return cls.from_dict(content, os.fspath(path))

    @classmethod
    def from_dict(cls, content: Any, name: str = "weights") -> Weights:
        """What `to_dict` gives, as an object; `name`: of the file, for messages.

        Raises `LogError` for what is none.
        """
        schema = content.get("schema") if isinstance(content, dict) else None
        if not str(schema).startswith("rocktok.weights/"):
            raise LogError(f"{name}: is not a weights file; {_WANTED}")
        if schema != SCHEMA:
            raise LogError(
                f"{name}: has schema {schema}, this version of rocktok reads {SCHEMA}; write it "
                "again, or update rocktok"
            )
        try:
            return _parsed(_Keys(content, name, ""))
        except UsageError as error:
            raise LogError(f"{name}: {error}; {_WANTED}") from error


def check_weight(weight: float) -> None:
    """Raise `UsageError` for a λ that is negative or not finite."""
    if not (math.isfinite(weight) and weight >= 0):
        raise UsageError(f"weight is {weight:g}; it must be 0 or more, and finite", "weight")


def check_radius(radius: int) -> None:
    """Raise `UsageError` for a negative radius."""
    if radius < 0:
        raise UsageError(f"radius is {radius}; it must be 0 or more", "radius")


def check_select(select: str) -> None:
    """Raise `UsageError` for a selection that is none; whether a lens exists is not looked at."""
    if select not in SELECTIONS and not (select.startswith(LENS) and select != LENS):
        raise UsageError(
            f"select is {select!r}; it must be one of {', '.join(SELECTIONS)} or {LENS}NAME",
            "select",
        )


def outside_vocabulary(token_ids: Sequence[int], size: int | None) -> int | None:
    """The first id that is outside a vocabulary; None: none is. `size` None: up to 2³¹ − 1."""
    most = 2**31 if size is None else size
    return next((v for v in token_ids if not 0 <= v < most), None)


class _Keys:
    """A JSON object of a file; what a key must hold is said where it is taken."""

    def __init__(self, content: Any, name: str, inside: str) -> None:
        self.name, self.inside = name, inside
        if not isinstance(content, dict):
            self.refuse("", "an object")
        self.content = content

    def refuse(self, key: str, wanted: str) -> NoReturn:
        place = ".".join(part for part in (self.inside, key) if part)
        raise LogError(f"{self.name}: {place} must be {wanted}; {_WANTED}")

    def take(self, key: str, wanted: str, good: Callable[[Any], bool]) -> Any:
        value = self.content.get(key)
        if key not in self.content or not good(value):
            self.refuse(key, wanted)
        return value

    def text(self, key: str) -> str:
        return str(self.take(key, "a text", lambda v: isinstance(v, str)))

    def number(self, key: str) -> float:
        return float(self.take(key, "a finite number", _is_number))

    def share(self, key: str) -> float | None:
        value = self.take(key, "a number or null", lambda v: v is None or _is_number(v))
        return None if value is None else float(value)

    def whole(self, key: str) -> int:
        return int(self.take(key, "a whole number, 0 or more", lambda v: _is_whole(v) and v >= 0))

    def ids(self, key: str, least: int = 0) -> tuple[int, ...]:
        def good(value: Any) -> bool:
            return isinstance(value, list) and all(
                _is_whole(v) and least <= v < 2**31 for v in value
            )

        return tuple(self.take(key, f"a list of token ids from {least} on", good))

    def inner(self, key: str) -> _Keys:
        inside = f"{self.inside}.{key}" if self.inside else key
        if key not in self.content:
            self.refuse(key, "an object")
        return _Keys(self.content[key], self.name, inside)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (_is_whole(value) or isinstance(value, float)) and math.isfinite(value)


def _parsed(keys: _Keys) -> Weights:
    budget, vocabulary = keys.inner("budget"), keys.inner("vocabulary")
    provenance = keys.inner("provenance")
    texts = keys.take(
        "token_texts",
        "a list of texts",
        lambda v: isinstance(v, list) and all(isinstance(text, str) for text in v),
    )
    steps = provenance.inner("steps").content
    if not all(step is None or _is_whole(step) for step in steps.values()):
        provenance.refuse("steps", "steps by name")
    return Weights(
        select=keys.text("select"),
        weight=keys.number("weight"),
        radius=keys.whole("radius"),
        normalization=keys.text("normalization"),
        token_ids=keys.ids("token_ids"),
        token_texts=tuple(texts),
        contexts=_contexts(keys),
        budget=Budget(budget.share("loss_share"), budget.share("token_share")),
        vocabulary=VocabularyOf(
            vocabulary.take("size", "a positive number or null", _is_size),
            vocabulary.take(
                "identity", "a text or null", lambda v: v is None or isinstance(v, str)
            ),
        ),
        provenance=Provenance(
            log=provenance.inner("log").content,
            steps=steps,
            parameters=provenance.inner("parameters").content,
            rocktok=provenance.text("rocktok"),
        ),
    )


def _is_size(value: Any) -> bool:
    return value is None or (_is_whole(value) and value > 0)


def _contexts(keys: _Keys) -> WindowContexts | None:
    if (
        keys.take("contexts", "an object or null", lambda v: v is None or isinstance(v, dict))
        is None
    ):
        return None
    contexts = keys.inner("contexts")
    before, after = contexts.whole("before"), contexts.whole("after")
    similarity = contexts.number("min_similarity")
    if not 0 < similarity <= 1:
        contexts.refuse("min_similarity", "above 0 and at most 1")
    windows = []
    rows = contexts.take("windows", "a list of windows", lambda v: isinstance(v, list))
    for number, row in enumerate(rows):
        window = _Keys(row, keys.name, f"contexts.windows[{number}]")
        left, right = window.ids("left", MISSING), window.ids("right", MISSING)
        if (len(left), len(right)) != (before, after):
            window.refuse("", f"{before} token ids on the left and {after} on the right")
        windows.append(Window(window.whole("token_id"), left, right))
    return WindowContexts(before, after, similarity, tuple(windows))
