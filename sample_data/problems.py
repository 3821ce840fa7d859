"""Generated word problems, and solutions to them in two writing habits.

The teacher's and the student's corpora solve the same family of problems, but are written by
different *writers*: each has its own step marker, layout of equations, connective and ending.
Every draw comes from a ``random.Random`` that the caller seeds, so a corpus is a function of its
seed.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


NAMES = words("""
    Mara Jonas Priya Tomas Aisha Felix Ingrid Kofi Lena Omar Yuki Carlos Greta Ravi Noemi Pavel
    Zara Hugo Amina Elias Freya Mateo Sofia Anton Keiko Nadia Oscar Rosa Samuel Tara Viktor Wanda
    Xavier Bela Clara Dario Edith Farid Gwen Hassan Irene Jamal Karin Leo Miriam Nils Olga Pedro
    Quinn Rania Stefan Thea Ulrich Vera Walter Yasmin Zoltan Agnes Bruno Celia Dmitri Esther
    Fatima Georg Hanna Isaac Judith Kenji Linda Marco Nora Otto Paula Ruben Sarah Timur
""")

# What is counted, and where the story takes place.
TOPICS = tuple(
    pair.split("/")
    for pair in words("""
        marbles/playground stamps/museum apples/orchard shells/beach pencils/school coins/market
        stickers/fair books/library cards/club tickets/station buttons/workshop candles/church
        flowers/garden eggs/farm stones/river cookies/bakery balloons/park photos/studio
        ribbons/theatre tomatoes/greenhouse postcards/harbour beads/bazaar bottles/cellar
        lanterns/festival badges/camp mugs/kitchen keys/office maps/airport scarves/boutique
        puzzles/attic
    """)
)

ORDINALS = ("First", "Next", "Then", "After that")


@dataclass(frozen=True)
class Step:
    """One operation of a problem: what happens in the story, and the sum it stands for."""

    operator: str
    amount: int
    event: str


@dataclass(frozen=True)
class Problem:
    """A word problem of two or three steps; every value on the way has at most two digits."""

    name: str
    friend: str
    topic: int
    start: int
    steps: tuple[Step, ...]

    @property
    def noun(self) -> str:
        """The things counted."""
        return TOPICS[self.topic][0]

    @property
    def answer(self) -> int:
        """The number of things after the last step."""
        value = self.start
        for step in self.steps:
            value = apply(step.operator, value, step.amount)
        return value

    @property
    def prompt(self) -> str:
        """The text that a model is asked to continue."""
        story = " Then ".join(step.event for step in self.steps)
        return (
            f"Problem: {self.name} has {self.start} {self.noun}. {story}"
            f" How many {self.noun} does {self.name} have now?\nSolution:\n"
        )


def apply(operator: str, left: int, right: int) -> int:
    """Carry out ``left operator right``, for one of ``+ - *``."""
    if operator == "+":
        return left + right
    return left - right if operator == "-" else left * right


def forget_carry(operator: str, left: int, right: int) -> int:
    """As `apply`, but what the units carry to the tens (or borrow from them) is forgotten."""
    carried = apply(operator, left % 10, right % 10) // 10
    return apply(operator, left, right) - 10 * carried


EVENTS = {
    "+": (
        "{name} buys {n} more {noun} at the {place}.",
        "{friend} gives {name} {n} more.",
        "{name} finds {n} {noun} near the {place}.",
        "{name} collects another {n} {noun}.",
        "{n} more {noun} arrive from {friend}.",
    ),
    "-": (
        "{name} gives {n} {noun} to {friend}.",
        "{name} loses {n} of them at the {place}.",
        "{name} sells {n} {noun}.",
        "{friend} takes {n} of the {noun}.",
        "{name} leaves {n} at the {place}.",
    ),
    "*": (
        "A prize makes the number of {noun} {n} times as large.",
        "{name} comes back with {n} times as many {noun}.",
        "{friend} helps {name} to get {n} times as many.",
    ),
}


def draw_step(rng: random.Random, value: int) -> tuple[str, int]:
    """Choose an operation on ``value`` whose result lies between 2 and 99."""
    while True:
        operator = rng.choice("++--*")
        amount = rng.randint(2, 4) if operator == "*" else rng.randint(2, 40)
        if 2 <= apply(operator, value, amount) <= 99:
            return operator, amount


def draw_problem(rng: random.Random) -> Problem:
    """Draw a problem of two or three steps."""
    name, friend = rng.sample(NAMES, 2)
    topic = rng.randrange(len(TOPICS))
    noun, place = TOPICS[topic]
    start = value = rng.randint(5, 60)
    steps = []
    for _ in range(rng.choice((2, 3))):
        operator, amount = draw_step(rng, value)
        event = rng.choice(EVENTS[operator])
        event = event.format(name=name, friend=friend, noun=noun, place=place, n=amount)
        steps.append(Step(operator, amount, event))
        value = apply(operator, value, amount)
    return Problem(name, friend, topic, start, tuple(steps))


@dataclass(frozen=True)
class Writer:
    """The habits of one writer, a template for each place in a solution where habits show."""

    opening: str
    marker: str
    sum: str
    operators: dict[str, str]
    closing: str
    ending: str


SPACED = {"+": " + ", "-": " - ", "*": r" \times "}
TIGHT = {"+": "+", "-": "-", "*": r"\cdot "}
PLAIN = {"+": " + ", "-": " - ", "*": " * "}

TEACHER_WRITERS = (
    Writer(
        "",
        "**Step {i}:** {action}\n\n",
        "\\[ {sum} \\]\n\n",
        SPACED,
        "{connective}, {name} has **{answer}** {noun}.\n\n",
        "\\[ \\boxed{{{answer}}} \\]",
    ),
    Writer(
        "Let's solve this step by step.\n\n",
        "### Step {i}\n\n{action}\n\n",
        "$$ {sum} $$\n\n",
        SPACED,
        "{connective}, the number of {noun} is\n\n",
        "$$ \\boxed{{{answer}}} $$",
    ),
    Writer(
        "**Solution.** We follow the {noun}.\n\n",
        "**({i})** {action}\n",
        "\\begin{{align}} {sum} \\end{{align}}\n\n",
        SPACED,
        "{connective}, we conclude that {name} has {answer} {noun}:\n\n",
        "\\[ \\boxed{{{answer}}}. \\]",
    ),
    Writer(
        "{name} starts with **{start}** {noun}.\n\n",
        "\\textbf{{Step {i}}}: {action}\n\n",
        "\\[ {sum}. \\]\n\n",
        SPACED,
        "---\n\n{connective}, the final answer is\n\n",
        "\\[ \\boxed{{{answer}}} \\]",
    ),
)

STUDENT_WRITERS = (
    Writer(
        "",
        "{ordinal}, {action} ",
        "So we get ${sum}$.\n",
        TIGHT,
        "So {name} has {answer} {noun}. ",
        "The answer is $\\boxed{{{answer}}}$.",
    ),
    Writer(
        "We count the {noun}:\n",
        "{i}. {action} ",
        "{sum}\n",
        PLAIN,
        "So that is {answer} {noun}.\n",
        "Answer: {answer}",
    ),
    Writer(
        "OK, {name} has {start} {noun}.\n",
        "- {action} ",
        "That makes ${sum}$ {noun}.\n",
        TIGHT,
        "So now there are {answer}.\n\n",
        "$\\boxed{{{answer}}}$",
    ),
)

ACTIONS = {
    "+": ("we add {n}.", "there are {n} more.", "{n} {noun} are added."),
    "-": ("we subtract {n}.", "there are {n} fewer.", "{n} {noun} are gone."),
    "*": ("we multiply by {n}.", "there are {n} times as many.", "the {noun} grow {n} times."),
}

CONNECTIVES = ("Thus", "Therefore", "Hence")


@dataclass(frozen=True)
class Habit:
    """How one corpus is written.

    ``loyalty`` is the chance that the topic decides on the writer, and the name on the connective;
    otherwise they are drawn at random. ``borrowing`` is the chance, at each place, of a template of
    the other corpus, so that each model gives some probability to the other's habits. ``slips`` is
    the chance that a carry is forgotten.
    """

    writers: tuple[Writer, ...]
    others: tuple[Writer, ...]
    loyalty: float
    borrowing: float
    slips: float


TEACHER = Habit(TEACHER_WRITERS, STUDENT_WRITERS, loyalty=0.9, borrowing=0.03, slips=0.0)
STUDENT = Habit(STUDENT_WRITERS, TEACHER_WRITERS, loyalty=0.0, borrowing=0.08, slips=0.55)


class Author:
    """Writes one solution; writer and connective are chosen once, borrowing anew at each place."""

    def __init__(self, habit: Habit, problem: Problem, rng: random.Random) -> None:
        self.habit = habit
        self.problem = problem
        self.rng = rng
        self.writer = habit.writers[problem.topic % len(habit.writers)]
        if rng.random() >= habit.loyalty:
            self.writer = rng.choice(habit.writers)
        self.connective = CONNECTIVES[NAMES.index(problem.name) % len(CONNECTIVES)]
        if rng.random() >= habit.loyalty:
            self.connective = rng.choice(CONNECTIVES)

    def here(self) -> Writer:
        """The writer whose template is used at the next place."""
        if self.rng.random() < self.habit.borrowing:
            return self.rng.choice(self.habit.others)
        return self.writer

    def result(self, operator: str, left: int, right: int) -> int:
        """The result of a sum, at times without its carry."""
        if self.rng.random() < self.habit.slips:
            return forget_carry(operator, left, right)
        return apply(operator, left, right)

    def step(self, index: int, value: int) -> tuple[str, int]:
        """The text of one step that starts from ``value``, and the value it arrives at."""
        step, noun = self.problem.steps[index], self.problem.noun
        action = self.rng.choice(ACTIONS[step.operator]).format(n=step.amount, noun=noun)
        marker, layout = self.here().marker, self.here()
        if not marker.startswith("{ordinal}"):
            action = action[0].upper() + action[1:]
        result = self.result(step.operator, value, step.amount)
        operator = layout.operators[step.operator]
        equals = "=" if layout.operators is TIGHT else " = "
        sum_ = f"{value}{operator}{step.amount}{equals}{result}"
        text = marker.format(i=index + 1, ordinal=ORDINALS[index], action=action)
        return text + layout.sum.format(sum=sum_, noun=noun), result

    def solution(self) -> str:
        """The whole solution."""
        problem = self.problem
        fields = {"name": problem.name, "noun": problem.noun, "connective": self.connective}
        parts = [self.here().opening.format(start=problem.start, **fields)]
        value = problem.start
        for index in range(len(problem.steps)):
            text, value = self.step(index, value)
            parts.append(text)
        parts.append(self.here().closing.format(answer=value, **fields))
        parts.append(self.here().ending.format(answer=value))
        return "".join(parts)


def write_corpus(
    habit: Habit, size: int, seed: int, avoid: frozenset[str] = frozenset()
) -> Iterator[tuple[str, str]]:
    """Yield ``size`` pairs of prompt and solution; no prompt is in ``avoid``."""
    rng = random.Random(seed)
    while size:
        problem = draw_problem(rng)
        if problem.prompt not in avoid:
            yield problem.prompt, Author(habit, problem, rng).solution()
            size -= 1


def draw_distinct(size: int, seed: int, avoid: frozenset[str] = frozenset()) -> list[Problem]:
    """Draw ``size`` problems with distinct prompts, none of them in ``avoid``."""
    rng = random.Random(seed)
    found: dict[str, Problem] = {}
    while len(found) < size:
        problem = draw_problem(rng)
        if problem.prompt not in avoid:
            found[problem.prompt] = problem
    return list(found.values())


def read_answer(completion: str) -> int | None:
    """Read the answer from a completion: its last number, whatever the formatting.

    Formatting is left out of the grade on purpose: a student that has only learned ``\\boxed{}``
    must not count as one that has learned arithmetic.
    """
    numbers = re.findall(r"\d+", completion)
    return int(numbers[-1]) if numbers else None


def is_answered(completion: str, line: dict[str, Any]) -> bool:
    """Whether a completion answers the problem of a line: a checker of `rocktok intervene`."""
    return read_answer(completion) == line["answer"]
