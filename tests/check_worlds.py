"""Runs whose students and teachers are known in full: Markov chains, with a disease if asked.

A student draws each token from the row of its matrix that the token before names; all columns of a
log follow exactly from both matrices. The student of a step lies between the first and the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rocktok.log import LogWriter

Array = np.ndarray[Any, Any]

WIDTH = 32
"""Token ids; 0 begins a text, and is special as END and OTHER_END are."""
END, OTHER_END = 1, 2
#: Ids from here on have no text where a world is padded.
PADDED = 28

COLUMNS = (
    "student_logprob",
    "teacher_logprob",
    "student_entropy",
    "student_end",
    "teacher_end",
)


@dataclass(frozen=True)
class World:
    """A run. Each field but the first ones is a disease.

    `learned`: how far from the first student to the teacher, by step.
    """

    seed: int = 0
    prompts: int = 60
    rollouts: int = 4
    steps: tuple[int, ...] = (0, 10, 20, 30, 40, 50)
    length: int = 160
    end: float = 0.03
    columns: tuple[str, ...] = COLUMNS
    alternatives: int = 5
    learning: float = 0.06
    teacher_ends_with: int = END
    student_unlearns: float = 0.0
    opening: float = 0.0
    end_loss: float = 0.0
    loops: float = 0.0
    padding: bool = False
    drawn_at: float = 1.0
    exactness: str = "exact"
    run: bool = True
    finish: bool = True
    fixed: bool = True
    pieces: int = 1

    def student(self, step: int) -> Array:
        """Rows of the student of a step: (WIDTH, WIDTH)."""
        first, teacher = self._matrices()
        part = self.learning * self.steps.index(step)
        mixed = _rows((1 - part) * np.log(first) + part * np.log(teacher))
        if self.student_unlearns:
            kept = (1 - self.student_unlearns) ** self.steps.index(step)
            mixed[:, END] *= kept
            mixed /= mixed.sum(axis=1, keepdims=True)
        return mixed

    def teacher(self) -> Array:
        """The teacher's: (WIDTH, WIDTH)."""
        return self._matrices()[1]

    def _matrices(self) -> tuple[Array, Array]:
        rng = np.random.default_rng([self.seed, 1])
        logits = 2.0 * rng.standard_normal((WIDTH, WIDTH))
        other = logits + 0.8 * rng.standard_normal((WIDTH, WIDTH))
        found = []
        for one, ends_with in ((logits, END), (other, self.teacher_ends_with)):
            rows = _rows(one)
            rows[:, [0, END, OTHER_END]] = 1e-4
            if not self.padding:
                rows[:, PADDED:] = 1e-12
            rows /= rows.sum(axis=1, keepdims=True)
            # Only after some tokens do texts end, and there they mostly do.
            rows[10] = 1e-4
            rows[10, ends_with] = 0.9
            rows[:, 10] = self.end
            found.append(rows / rows.sum(axis=1, keepdims=True))
        if self.end_loss:
            found[1][10, END] *= np.exp(-self.end_loss)
            found[1] /= found[1].sum(axis=1, keepdims=True)
        return found[0], found[1]

    def text(self, step: int, rng: np.random.Generator) -> list[Array]:
        """Texts that the student of a step writes."""
        rows = self.student(step) ** (1 / self.drawn_at)
        sums = np.cumsum(rows / rows.sum(axis=1, keepdims=True), axis=1)
        texts = self.prompts * self.rollouts
        before = np.array([self.before(number) for number in range(texts)])
        words = np.zeros((texts, self.length), dtype=int)
        for at in range(self.length):
            drawn = (sums[before] < rng.random(texts)[:, None]).sum(axis=1)
            # The sums end a little below 1.
            words[:, at] = before = np.minimum(drawn, (WIDTH if self.padding else PADDED) - 1)
        ends = np.isin(words, (END, OTHER_END))
        sizes = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, self.length)
        found = [one[:size] for one, size in zip(words, sizes, strict=True)]
        loop = np.tile([3, 4, 5], self.length)[: self.length]
        return [
            loop if number % 100 < 100 * self.loops else one for number, one in enumerate(found)
        ]

    def before(self, number: int) -> int:
        """The token before the first one of a text."""
        return 3 + number // self.rollouts % 7

    def rows(self, step: int, texts: list[Array], first: int) -> dict[str, Array]:
        """All columns of some texts, scored by the student of a step, and its alternatives."""
        words = np.concatenate(texts)
        position = np.concatenate([np.arange(len(text)) for text in texts])
        number = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
        before = np.concatenate(
            [[self.before(i), *text[:-1]] for i, text in enumerate(texts)]
        )  # fmt: skip
        p, q = self.student(step)[before], self.teacher()[before]
        if self.opening:
            early = position < 5
            q[early] = q[early] ** (1 + self.opening)
            q[early] /= q[early].sum(axis=1, keepdims=True)
        keys = {"step": np.full(len(words), step), "sequence_id": first + number}
        return {**keys, "position": position, **_columns(words, p, q)}

    def write(self, path: Path) -> Path:
        """The log."""
        rng = np.random.default_rng([self.seed, 3])
        texts = [(i, f"t{i}", b"t%d" % i) for i in range(PADDED)]
        run = self.said() if self.run else {}
        with LogWriter(path, run=run, vocab=texts, columns=list(self.columns)) as writer:
            kept = self.text(self.steps[0], rng)
            writer.write(self._sequences(kept, 0, 0), table="sequences")
            for at, step in enumerate(self.steps):
                first = (at + 1) * 100_000
                own = self.text(step, rng)
                writer.write(self._sequences(own, first, step), table="sequences")
                self._write(writer, step, self.rows(step, own, first), "rollout")
                if self.fixed:
                    self._write(writer, step, self.rows(step, kept, 0), "fixed")
        return path

    def said(self) -> dict[str, Any]:
        """What run.json says."""
        return {
            "vocab_size": WIDTH,
            "loss": {
                "divergence": "reverse_kl",
                "trained": True,
                "exactness": self.exactness,
                "student_temperature": 1.0,
                "teacher_temperature": 1.0,
            },
            "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0},
            "terminal_ids": {"student": [END], "teacher": [self.teacher_ends_with]},
            "special_ids": [0, END, OTHER_END],
            "max_completion_length": self.length,
            "tokenizers": {
                "teacher_tokenizer": "found",
                "vocab_width": {"student": WIDTH, "teacher": WIDTH},
                "tokens_differ": 0,
                "special_differ": [],
                "template": {"same": True, "first_difference": None},
            },
            "extra": {"trainer": "trl.DistillationTrainer"},
        }

    def _sequences(self, texts: list[Array], first: int, step: int) -> dict[str, Any]:
        rows = {
            "sequence_id": np.arange(first, first + len(texts)),
            "step": step,
            "num_tokens": [len(words) for words in texts],
            "prompt_id": [f"p{number // self.rollouts}" for number in range(len(texts))],
        }
        if self.finish:
            ends = (END, OTHER_END)
            rows["finish_reason"] = ["stop" if w[-1] in ends else "length" for w in texts]
        return rows

    def _write(self, writer: LogWriter, step: int, rows: dict[str, Array], table: str) -> None:
        names = ("step", "sequence_id", "position", "token_id", "loss", *self.columns)
        beside: dict[str, Array] = {n: rows[n] for n in ("step", "sequence_id", "position")}
        for model in ("student", "teacher"):
            whole = rows[f"{model}_all"]
            ids = np.argsort(-whole, axis=1, kind="stable")[:, : max(1, self.alternatives)]
            beside[f"{model}_ids"] = ids.astype(np.int32)
            beside[f"{model}_probs"] = np.take_along_axis(whole, ids, 1).astype(np.float16)
        told = table == "fixed" and self.alternatives > 0
        for piece in range(self.pieces):
            part = rows["sequence_id"] % self.pieces == piece
            writer.write({name: rows[name][part] for name in names}, table=table)
            if told:
                mine = {name: values[part] for name, values in beside.items()}
                writer.write(mine, table="alternatives")
            if self.pieces > 1:
                writer.flush()
        writer.finish_step(step, table)
        if told:
            writer.finish_step(step, "alternatives")


def _rows(logits: Array) -> Array:
    rows = np.exp(logits - logits.max(axis=1, keepdims=True))
    return rows / rows.sum(axis=1, keepdims=True)


def _columns(words: Array, p: Array, q: Array) -> dict[str, Array]:
    at, ends = np.arange(len(words)), [END, OTHER_END]
    logs = np.log(p), np.log(q)
    return {
        "token_id": words,
        "loss": (p * (logs[0] - logs[1])).sum(axis=1).astype(np.float32),
        "student_logprob": logs[0][at, words].astype(np.float32),
        "teacher_logprob": logs[1][at, words].astype(np.float32),
        "log_ratio": (logs[0] - logs[1])[at, words].astype(np.float32),
        "student_entropy": -(p * logs[0]).sum(axis=1).astype(np.float32),
        "student_end": p[:, ends].sum(axis=1).astype(np.float32),
        "teacher_end": q[:, ends].sum(axis=1).astype(np.float32),
        "student_all": p,
        "teacher_all": q,
    }
