"""The table of refusal reasons, compared with every error class of the package."""

from __future__ import annotations

import re

import pytest

from boltseal import errors
from boltseal.errors import BoltsealError
from boltseal.policy.refusals import MEANINGS, RefusalReason
from boltseal.server.api.errors import RegistryReadOnly
from boltseal.server.api.refusal_reasons import REASONS, reason_of
from boltseal.server.api.responses import refusal
from boltseal.server.registry.tag_refusals import NotExtended, TagProtected, TagSealed, TagTombstoned, TagUnsigned
from tests.error_classes import every_error_class

CONTRACT = {"sealed", "tombstone", "not-extended", "protected", "unsigned", "quota", "held"}
"""Reasons that clients and operators rely on: the words of the refusals by seals and limits."""


def test_every_error_class_has_a_reason() -> None:
    """Each error class has a row of its own, or that of a parent class."""
    reasons = {cls: reason_of(cls) for cls in every_error_class()}

    assert set(errors.HTTP_ANSWERS) <= set(REASONS)
    assert set(reasons.values()) == set(RefusalReason)


def test_every_row_is_needed() -> None:
    """Except for the kinds, no row repeats its parent's reason."""
    needless = [
        cls
        for cls, reason in REASONS.items()
        if cls not in errors.HTTP_ANSWERS
        and reason is next(REASONS[parent] for parent in cls.__mro__[1:] if parent in REASONS)
    ]

    assert needless == []


def test_reasons_are_label_values_with_a_documented_meaning() -> None:
    """Reasons are lower-case words with hyphens, each with a sentence in the documentation."""
    assert {reason.value for reason in RefusalReason} >= CONTRACT
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", reason.value) for reason in RefusalReason)
    assert set(MEANINGS) == set(RefusalReason)


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (TagSealed, "sealed"),
        (TagTombstoned, "tombstone"),
        (NotExtended, "not-extended"),
        (TagUnsigned, "unsigned"),
        (TagProtected, "protected"),
        (RegistryReadOnly, "read-only"),
    ],
)
def test_refusals_by_seals_have_fixed_reasons(cls: type[BoltsealError], reason: str) -> None:
    """The refusal reasons of seals are fixed, and renaming a class does not change them."""
    assert reason_of(cls) == reason


def test_a_renamed_class_keeps_its_reason() -> None:
    """The reason of a refusal comes from the table, not from the class's name."""
    renamed = type("SomethingElse", (TagSealed,), {})

    assert reason_of(renamed) is RefusalReason.SEALED


def test_no_error_response_has_the_name_of_a_class() -> None:
    """Neither code nor detail of an error's JSON has a class name."""
    for cls in every_error_class():
        error = cls.__new__(cls)
        error.message = "refused"
        if cls.__init__ is BoltsealError.__init__:
            body = refusal(error, ()).body.decode()

            assert cls.__name__ not in body
