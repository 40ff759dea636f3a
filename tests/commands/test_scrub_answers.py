"""What another host answers to `scrub --host`: read strictly, and never better than it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from boltseal.commands.outcome import Outcome
from boltseal.commands.scrub_answers import MAX_LISTED, AnswerMalformed, HostAnswer, Question, read_answer

HOLDS: dict[str, Any] = {"what": "image", "ref": "app:1", "status": "holds", "reason": "2 layers", "level": "L0"}
DIFFERS: dict[str, Any] = HOLDS | {
    "status": "differs",
    "count": 1,
    "differences": [{"kind": "mode", "path": "bin/su", "layer": "sha256:aa", "expected": "0755", "got": "4755"}],
}


def answer(
    outcome: str,
    *results: dict[str, Any],
    code: int = 0,
    content: bool = True,
    complete: bool = False,
    empty: bool = False,
    images: tuple[str, ...] = (),
    **more: Any,
) -> HostAnswer:
    """Read the answer of a host with this outcome and these results."""
    found = {"schema": "boltseal.scrub/1", "outcome": outcome, "results": list(results), "errors": [], **more}
    asked = Question(images, content=content, complete=complete, allow_empty=empty)
    return read_answer(json.dumps(found).encode(), code, asked)


def test_an_answer_in_which_all_holds() -> None:
    """An answer in which all holds is passed on as it is."""
    found = answer("holds", HOLDS)

    assert (found.outcome, found.problems) == (Outcome.HOLDS, ())
    assert found.results == (HOLDS,)


def test_an_answer_with_a_difference() -> None:
    """An answer with a difference is passed on with each of them."""
    found = answer("differs", HOLDS, DIFFERS, code=1)

    assert (found.outcome, found.problems) == (Outcome.DIFFERS, ())
    assert found.results[1]["differences"] == DIFFERS["differences"]


@pytest.mark.parametrize(
    ("outcome", "row", "code", "worst"),
    [
        ("holds", DIFFERS, 0, Outcome.DIFFERS),
        ("holds", HOLDS | {"status": "unknown"}, 0, Outcome.UNKNOWN),
        ("holds", HOLDS | {"status": "splendid"}, 0, Outcome.UNKNOWN),
        ("holds", HOLDS | {"count": 1}, 0, Outcome.DIFFERS),
        ("unknown", DIFFERS, 3, Outcome.DIFFERS),
        ("holds", HOLDS, 1, Outcome.UNKNOWN),
        ("holds", HOLDS, 137, Outcome.UNKNOWN),
        ("differs", HOLDS, 0, Outcome.DIFFERS),
    ],
)
def test_an_answer_that_contradicts_itself(outcome: str, row: dict[str, Any], code: int, worst: Outcome) -> None:
    """The worst of outcome, results and exit code counts, and the contradiction is reported."""
    found = answer(outcome, row, code=code)

    assert found.outcome is worst
    assert "contradicts itself" in found.problems[0]


@pytest.mark.parametrize("rows", [(), (HOLDS | {"status": "gone"},), ({"ref": "1/7", "status": "complete"},)])
def test_an_answer_without_a_check_is_no_success(rows: tuple[dict[str, Any], ...]) -> None:
    """An answer in which nothing was checked is "could not check", unless an empty host is allowed."""
    found, allowed = answer("holds", *rows), answer("holds", *rows, empty=True)

    assert (found.outcome, found.problems) == (Outcome.UNKNOWN, ("it found nothing to check",))
    assert allowed.outcome is Outcome.HOLDS


def test_an_answer_of_a_quick_run_is_no_answer_to_a_full_one() -> None:
    """A host that read no content, for example because its key allows only --quick, is not a success of a full run."""
    row = HOLDS | {"level": None}

    assert answer("holds", row).outcome is Outcome.UNKNOWN
    assert answer("holds", row, content=False).outcome is Outcome.HOLDS


UNCHECKED: dict[str, Any] = {
    "what": "build-cache",
    "ref": "/var/lib/docker",
    "status": "unchecked",
    "reason": "not checked: 31 records",
    "unchecked": ["layers of no image"],
    "unchecked_count": 31,
}


def test_a_build_cache_of_the_other_host_is_no_contradiction() -> None:
    """A build cache that could not be compared is passed on, and changes the outcome of a host as little as it does there."""
    found, alone = answer("holds", HOLDS, UNCHECKED), answer("holds", UNCHECKED)

    assert (found.outcome, found.problems) == (Outcome.HOLDS, ())
    assert found.results[1] == UNCHECKED
    assert (alone.outcome, alone.problems) == (Outcome.UNKNOWN, ("it found nothing to check",))


@pytest.mark.parametrize("row", [UNCHECKED, HOLDS | {"unchecked": ["files"]}, HOLDS | {"level": None, "unread": 2}])
def test_a_host_that_left_something_out_is_not_complete(row: dict[str, Any]) -> None:
    """With --complete a host that left something out is "could not check", also if its key ignores that option."""
    found = answer("holds", HOLDS, row, content=False, complete=True)

    assert (found.outcome, found.problems) == (
        Outcome.UNKNOWN,
        ("1 of its results left something out, and --complete was given",),
    )


@pytest.mark.parametrize(("image", "why"), [
    ("db:2", "it did not check db:2, as its results do not name it"),
    ("app:1@sha256:aa", "it did not compare app:1@sha256:aa with the digest that was given"),
])  # fmt: skip
def test_an_answer_about_other_images_is_no_success(image: str, why: str) -> None:
    """A host that did not check the named image, or not by its digest, is "could not check"."""
    found = answer("holds", HOLDS, HOLDS | {"ref": "app:1@sha256:aa"}, images=(image,))

    assert (found.outcome, found.problems) == (Outcome.UNKNOWN, (why,))


def test_an_error_of_the_other_host_is_passed_on() -> None:
    """An error that ended the scrub there is a reason here."""
    found = answer("unknown", code=2, errors=[{"code": "INVALID", "message": "no such option: --share"}])

    assert (found.outcome, found.problems) == (Outcome.UNKNOWN, ("no such option: --share",))


def test_texts_are_made_printable() -> None:
    """Control characters, line breaks, and marks of direction in any text reach no terminal."""
    evil = "a\x1b[2J\nholds L2: app\u202e"
    found = answer("differs", DIFFERS | {"ref": evil, "differences": [{"kind": evil, "path": evil}]}, code=1)
    shown = json.dumps(found.results, ensure_ascii=False)

    assert "\x1b" not in shown
    assert "\\n" not in shown.replace("\\\\n", "")
    assert "\u202e" not in shown


@pytest.mark.parametrize(
    ("results", "refused"),
    [
        (b",".join([b'{"ref":"","status":"holds"}'] * (MAX_LISTED + 1)), "length <= 100000"),
        (b'{"ref":"","status":"holds","differences":[%s]}' % b",".join([b'{"kind":""}'] * (MAX_LISTED + 1)), "length"),
        (
            b",".join([b'{"ref":"","status":"differs","differences":[%s]}' % b",".join([b'{"kind":""}'] * 60_000)] * 2),
            "more than 100000 differences",
        ),
    ],
)
def test_an_answer_with_too_long_lists_is_refused(results: bytes, refused: str) -> None:
    """Short members of an answer can't be used to exhaust this host: their number is limited."""
    raw = b'{"schema":"boltseal.scrub/1","outcome":"differs","results":[%s],"errors":[]}' % results

    with pytest.raises(AnswerMalformed, match=refused):
        read_answer(raw, 1, Question())


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b'"holds"', b"[" * 200_000, b"\xff", b'{"schema":"boltseal.scrub/1"}',
        b'{"schema":"boltseal.ps/1","outcome":"holds","results":[],"errors":[]}',
        b'{"schema":"boltseal.scrub/1","outcome":"fine","results":[],"errors":[]}',
        b'{"schema":"boltseal.scrub/1","outcome":"holds","results":[{"ref":1,"status":"holds"}],"errors":[]}',
        b'{"schema":"boltseal.scrub/1","outcome":"holds","results":[{"ref":"a"}],"errors":[]}',
        b'{"schema":"boltseal.scrub/1","outcome":"holds","results":[],"errors":[]} trailing',
        b'{"schema":"boltseal.scrub/1","outcome":"holds","results":' + b'[{"x":' * 50_000,
    ],
)  # fmt: skip
def test_a_malformed_answer_is_refused(raw: bytes) -> None:
    """An answer that is not the published object is refused with the reason."""
    with pytest.raises(AnswerMalformed):
        read_answer(raw, 0, Question(allow_empty=True))
