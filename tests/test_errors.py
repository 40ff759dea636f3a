"""The two tables of errors.py, compared with every error class of the package."""

from __future__ import annotations

from boltseal import errors
from boltseal.errors import BoltsealError, ErrorCode, ExitCode, exit_code, http_answer, kind_of
from tests.error_classes import every_error_class


def test_every_error_class_belongs_to_exactly_one_kind() -> None:
    """A class below two kinds would have two statuses."""
    kinds = set(errors.HTTP_ANSWERS)
    wrong = [cls for cls in every_error_class() if len(kinds & set(cls.__mro__)) != 1]

    assert wrong == []


def test_every_kind_is_in_both_tables() -> None:
    """A kind has one HTTP answer and one exit code."""
    kinds = set(BoltsealError.__subclasses__())

    assert kinds == set(errors.HTTP_ANSWERS)
    assert kinds == set(errors.EXIT_CODES)


def test_every_error_class_answers_with_a_code_of_the_spec() -> None:
    """No code outside the spec's fourteen leaves the server."""
    answers = [http_answer(cls.__new__(cls)) for cls in every_error_class()]

    assert all(answer.code in ErrorCode and 400 <= answer.status < 600 for answer in answers)


def test_no_refusal_uses_a_status_that_clients_retry() -> None:
    """A decided refusal is never answered with 408, 429 or 5xx, which clients retry."""
    decided = [
        errors.Invalid,
        errors.Denied,
        errors.SealedPut,
        errors.SealedDelete,
        errors.Precondition,
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
