"""The tables of errors.py, compared with every error class of the package."""

from __future__ import annotations

import pytest

from boltseal import errors
from boltseal.errors import BoltsealError, ErrorCode, ExitCode, exit_code, http_answer, kind_of, quote, without_logins
from tests.error_classes import every_error_class


def test_every_error_class_belongs_to_exactly_one_kind() -> None:
    """A class below two kinds would have two statuses."""
    kinds = set(errors.HTTP_ANSWERS)
    wrong = [cls for cls in every_error_class() if len(kinds & set(cls.__mro__)) != 1]

    assert wrong == []


def test_every_kind_stands_in_all_tables() -> None:
    """A kind of error has one HTTP answer, one exit code and one code in JSON."""
    kinds = set(BoltsealError.__subclasses__())

    assert kinds == set(errors.HTTP_ANSWERS)
    assert kinds == set(errors.EXIT_CODES)
    assert kinds == set(errors.COMMAND_CODES)
    assert set(errors.COMMAND_CODES.values()) | {errors.CommandErrorCode.INTERNAL} == set(errors.CommandErrorCode)


def test_every_error_class_answers_with_a_code_of_the_spec() -> None:
    """A 4XX has one of the spec's fourteen codes; the one code beside them is only for 5XX, whose codes the spec leaves open."""
    answers = [http_answer(cls.__new__(cls)) for cls in every_error_class()]

    assert all(answer.code in ErrorCode and 400 <= answer.status < 600 for answer in answers)
    assert {answer.status for answer in answers if answer.code is ErrorCode.UNAVAILABLE} == {503}


def test_no_refusal_uses_a_status_that_clients_retry() -> None:
    """A decided refusal is never answered with 408, 429 or 5xx, which clients retry."""
    decided = [
        errors.Invalid,
        errors.Denied,
        errors.SealedPut,
        errors.SealedDelete,
        errors.Precondition,
        errors.Mismatch,
        errors.TooLarge,
    ]

    assert all(errors.HTTP_ANSWERS[kind].status in {400, 403, 405, 409, 412, 413} for kind in decided)


def test_a_class_may_name_its_own_code_but_keeps_the_status_of_its_kind() -> None:
    """An error class may have its own code, but its status is its kind's."""

    class Specific(errors.NotFound):
        code = ErrorCode.BLOB_UNKNOWN

    answer = http_answer(Specific("blob unknown"))

    assert (answer.status, answer.code) == (404, ErrorCode.BLOB_UNKNOWN)
    assert kind_of(Specific("blob unknown")) is errors.NotFound
    assert exit_code(Specific("blob unknown")) is ExitCode.DIFFERS


def test_no_error_is_a_success() -> None:
    """No kind of error ends a command with exit code 0."""
    assert ExitCode.HOLDS not in errors.EXIT_CODES.values()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ci:sesame@registry.example.com/app", "https://...@registry.example.com/app"),
        ("https://sesame@registry.example.com", "https://...@registry.example.com"),
        ("tcp://ci:ses@ame@h:1", "tcp://...@h:1"),
        ("https://ci:ses/ame@h/x", "https://...@h/x"),
        ("http:/ci:sesame@h: no such file or folder", "http:/...@h: no such file or folder"),
        ("https://localhost:5000/app@sha256:ab", "https://localhost:5000/app@sha256:ab"),
        ("ssh://web1, ann@web1, localhost:5000/app@sha256:ab", "ssh://web1, ann@web1, localhost:5000/app@sha256:ab"),
    ],
)
def test_a_login_in_a_url_is_not_repeated(text: str, shown: str) -> None:
    """A message shows a URL without its login, also where the URL is cut off."""
    assert without_logins(text) == shown
    assert "sesame" not in quote(text, 12)
