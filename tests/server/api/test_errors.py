"""Error responses: the spec's JSON, its fourteen codes, and the headers that a status requires."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator

import pytest

import boltseal
from boltseal.errors import BoltsealError, ErrorCode, TooMany, Unavailable
from boltseal.oci.reference import Tag
from boltseal.policy.refusals import RefusalDetail, RefusalReason
from boltseal.server.api.errors import (
    BodyStalled,
    MethodNotAllowed,
    RangeNotSatisfiable,
    UriTooLong,
    error_body,
    error_headers,
    status_and_code,
)


def subclasses(cls: type[BoltsealError]) -> Iterator[type[BoltsealError]]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_error_has_a_status_of_an_error_and_a_code_of_the_spec() -> None:
    """Each error class of all packages has an error status and a code of the spec."""
    for module in pkgutil.walk_packages(boltseal.__path__, "boltseal."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)

    for cls in subclasses(BoltsealError):
        error = cls.__new__(cls)
        status, code = status_and_code(error)
        assert 400 <= status < 600, cls
        assert status != 500, cls
        assert code in ErrorCode, cls


def test_the_body_is_the_specs() -> None:
    """The body of an error is `errors`, a list of code, message and detail; an internal error has no detail."""
    detail = RefusalDetail(RefusalReason.SEALED, Tag("1"))
    body = json.loads(error_body(ErrorCode.DENIED, 'tag "1" is sealed', detail))
    defect = json.loads(error_body(ErrorCode.UNSUPPORTED, "internal error", None))

    assert body == {
        "errors": [{"code": "DENIED", "message": 'tag "1" is sealed', "detail": {"reason": "sealed", "tag": "1"}}]
    }
    assert defect["errors"][0]["detail"] is None


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        (MethodNotAllowed("no", "GET, HEAD"), 405, (b"allow", b"GET, HEAD")),
        (RangeNotSatisfiable("no", 7), 416, (b"content-range", b"bytes */7")),
        (Unavailable("later"), 503, (b"retry-after", b"2")),
        (BodyStalled("later"), 503, (b"retry-after", b"2")),
        (TooMany("later"), 429, (b"retry-after", b"30")),
    ],
)
def test_headers_that_belong_to_a_status(error: BoltsealError, status: int, header: tuple[bytes, bytes]) -> None:
    """Each status has the header that a client needs to react."""
    assert status_and_code(error)[0] == status
    assert error_headers(error) == (header,)


def test_a_url_too_long_is_414() -> None:
    """A URL that is too long gets 414, which is not in the table of error kinds."""
    assert status_and_code(UriTooLong("no")) == (414, ErrorCode.UNSUPPORTED)
