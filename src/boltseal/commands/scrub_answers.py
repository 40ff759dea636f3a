"""Reads what `boltseal scrub --json` printed on another host.

The answer is that host's word: one that an attacker controls can answer that everything holds. What is read here must only not
harm this host, nor hide what the answer says:

1. The answer is one JSON object of the published schema, limited in size and in the length of its lists. Other members are ignored.
2. All texts are made printable: they may come from files that an attacker named.
3. The outcome is the worst of the object's outcome, its results and its errors. An exit code that contradicts it, and an object
   without a result, are "could not check".
4. An answer to another question is "could not check": images without a level where all content was to be read, something left
   out where nothing was to be, a named image that no result has, and one that was not compared with the given digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from boltseal.commands.outcome import Outcome
from boltseal.commands.text import clean
from boltseal.errors import Unavailable

SCHEMA: Final = "boltseal.scrub/1"
MAX_LISTED: Final = 100_000
"""The most results, and the most differences of all results, that are read."""
PLAIN: Final = 200
"""Texts of up to so many characters are looked at without a copy; nearly all are shorter."""
_CODES: Final = {Outcome.HOLDS: (0,), Outcome.DIFFERS: (1,), Outcome.UNKNOWN: (2, 3, 130)}
_NEUTRAL: Final = frozenset({"gone", "unchecked", "partial", "complete"})
"""Statuses that neither prove nor deny anything about an image."""


_Differences = Annotated[list["_Difference"], msgspec.Meta(max_length=MAX_LISTED)]
_Texts = Annotated[list[str], msgspec.Meta(max_length=MAX_LISTED)]


class _Difference(msgspec.Struct, gc=False):
    kind: str
    path: str = ""
    layer: str = ""
    expected: str = ""
    got: str = ""


class _Change(msgspec.Struct, gc=False):
    path: str
    how: str = ""


class _Row(msgspec.Struct, omit_defaults=True):
    ref: str
    status: str
    reason: str = ""
    what: str = ""
    store: str = ""
    root: str = ""
    level: str | None = None
    by: str = ""
    id: str = ""
    names: _Texts = []
    layers: int = 0
    entries: int = 0
    differences: _Differences = []
    count: int = 0
    unknown: _Texts = []
    changed: Annotated[list[_Change], msgspec.Meta(max_length=MAX_LISTED)] = []
    running: int = 0
    notes: _Texts = []
    unchecked: _Texts = []
    unchecked_count: int = 0
    unread: int = 0
    parts: int = 0
    read_bytes: int = 0
    unread_bytes: int = 0
    never_read: int = 0
    oldest: str | None = None


class _Error(msgspec.Struct):
    message: str
    code: str = ""


class _Object(msgspec.Struct):
    schema: str
    outcome: Outcome
    results: Annotated[list[_Row], msgspec.Meta(max_length=MAX_LISTED)]
    errors: Annotated[list[_Error], msgspec.Meta(max_length=MAX_LISTED)]


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """What another host answered. `results`: for `--json`; `problems`: why it, or a part of it, could not be checked."""

    outcome: Outcome
    results: tuple[Mapping[str, Any], ...] = ()
    problems: tuple[str, ...] = ()


class AnswerMalformed(Unavailable):
    """An answer that is not the object of `boltseal scrub --json`."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a host was asked to check. A key with a command of its own answers another question.

    Attributes:
        images: the named ones; none for all.
        expected: whether the one image has a digest beside its name (`--expect`).
        content: whether all content was to be read.
        complete: whether nothing was to be left out.
        allow_empty: whether no image is a success.
    """

    images: tuple[str, ...] = ()
    expected: bool = False
    content: bool = True
    complete: bool = False
    allow_empty: bool = False


def read_answer(raw: bytes, code: int, asked: Question) -> HostAnswer:
    """Read the output of a scrub that ended with an exit code. Raises: AnswerMalformed."""
    found = _decoded(raw)  # 1
    rows = [_printable(msgspec.to_builtins(each)) for each in found.results]  # 2
    problems = [clean(each.message) for each in found.errors]
    statuses = [_outcome_of(each) for each in found.results if each.status not in _NEUTRAL]
    worst = Outcome.worst([found.outcome, *statuses])  # 3
    if problems:
        worst = worst.worse(Outcome.UNKNOWN)
    if code not in _CODES[found.outcome] or worst is not found.outcome:
        results = f"{sum(each is not Outcome.HOLDS for each in statuses)} of {len(statuses)} results do not hold"
        problems.append(f"its answer contradicts itself: exit code {code}, outcome {found.outcome}, {results}")
    elif not statuses and not problems and not asked.allow_empty:
        problems.append("it found nothing to check")
    problems += _unanswered(found.results, asked)  # 4
    outcome = worst.worse(Outcome.UNKNOWN) if problems else worst
    return HostAnswer(outcome, tuple(rows), tuple(problems))


def _unanswered(rows: Sequence[_Row], asked: Question) -> list[str]:
    """Return what was asked for, and is not in results that hold."""
    found = []
    holding = [each for each in rows if each.what == "image" and each.status == "holds"]
    if asked.content and (unread := sum(each.level is None for each in holding)):
        found.append(f"it read no content of {unread} of its images, although all was asked for")
    left_out = sum(bool(each.unchecked or each.unread or each.status == "unchecked") for each in rows)
    if asked.complete and left_out:
        found.append(f"{left_out} of its results left something out, and --complete was given")
    if missing := set(asked.images) - {each.ref for each in rows}:
        found.append(f"it did not check {', '.join(sorted(map(clean, missing)))}, as its results do not name it")
    with_digest = {each for each in asked.images if asked.expected or "@" in each}
    if asked.content and (
        unproven := {each.ref for each in holding if each.level == "L0" and not each.by} & with_digest
    ):
        found.append(f"it did not compare {', '.join(sorted(map(clean, unproven)))} with the digest that was given")
    return found


def _decoded(raw: bytes) -> _Object:
    try:
        found = msgspec.json.decode(raw, type=_Object)
    except (msgspec.DecodeError, RecursionError) as error:
        raise AnswerMalformed(
            f"its answer is not the object of `boltseal scrub --json`: {clean(str(error))}"
        ) from error
    if sum(len(each.differences) for each in found.results) > MAX_LISTED:
        raise AnswerMalformed(f"its answer has more than {MAX_LISTED} differences, which were not read")
    if found.schema != SCHEMA:
        raise AnswerMalformed(f"its answer has another schema (got {clean(found.schema)[:100]}, expected {SCHEMA})")
    return found


def _outcome_of(row: _Row) -> Outcome:
    """Return the outcome that a result stands for; a status that is not known here proves nothing."""
    if row.status == Outcome.DIFFERS or row.differences or row.count:
        return Outcome.DIFFERS
    return Outcome.HOLDS if row.status == Outcome.HOLDS else Outcome.UNKNOWN


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        is_plain = len(value) <= PLAIN and value.isascii() and value.isprintable() and "//" not in value
        return value if is_plain else clean(value)
    if isinstance(value, Sequence):
        return [_printable(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _printable(each) for key, each in value.items()}
    return value
