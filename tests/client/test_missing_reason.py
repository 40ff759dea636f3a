"""Why a tag is missing: the registry's own reason is in the message."""

from __future__ import annotations

import pytest
from starlette.responses import JSONResponse, Response

from boltseal.client.credentials import CredentialStore
from boltseal.client.errors import RemoteDenied, RemoteNotFound, error_text
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport, TransportOptions
from boltseal.oci.reference import Reference, Repository, Tag
from boltseal.project.resolve import Resolver
from tests.fakes.hub import FakeHub

SHOP = Repository("shop/app")


async def missing(hub: FakeHub, registry: str) -> str:
    """Return the error message for a tag that this registry does not have."""
    transport = Transport(CredentialStore(()), TransportOptions(attempts=1), app=hub.transport())
    with pytest.raises(RemoteNotFound) as refused:
        await RegistryClient(transport, registry).resolve_explained(SHOP, Tag("9"))
    await transport.aclose()
    return refused.value.message


async def test_the_reason_of_the_registry_is_in_the_message() -> None:
    """HEAD answers have no body, so that a GET fetches the registry's reason."""
    hub = FakeHub()

    assert await missing(hub, "ghcr.io") == 'ghcr.io has no manifest 9 of shop/app: "manifest unknown"'
    assert hub.counted["GET manifest"] == 1


async def test_a_refusal_without_a_reason_names_the_missing_right_and_the_operator() -> None:
    """A 403 to a HEAD request has no body; the message names what is missing and the operator, who can give it."""
    hub = FakeHub(failures=[Response(status_code=403)])
    transport = Transport(CredentialStore(()), TransportOptions(attempts=1), app=hub.transport())
    with pytest.raises(RemoteDenied) as refused:
        await RegistryClient(transport, "ghcr.io").resolve(SHOP, Tag("9"))
    await transport.aclose()

    assert refused.value.message == (
        "ghcr.io denies manifest 9 of shop/app (HTTP 403): the login lacks the right; ask the registry's operator for it"
    )


async def test_no_reason_is_asked_for_where_pulls_are_counted() -> None:
    """Docker Hub counts a GET of a manifest as a pull, so that its reason is not fetched."""
    hub = FakeHub()

    assert await missing(hub, "docker.io") == "docker.io has no manifest 9 of shop/app (HTTP 404)"
    assert hub.counted["GET manifest"] == 0


async def test_another_answer_to_the_question_for_the_reason_changes_nothing() -> None:
    """Whatever the GET for the reason returns, the tag is reported as missing."""
    hub = FakeHub(failures=[Response(status_code=404), JSONResponse({"errors": []}, 500)])

    assert await missing(hub, "ghcr.io") == "ghcr.io has no manifest 9 of shop/app (HTTP 404)"


async def test_the_tags_of_a_project_get_the_reason_too() -> None:
    """Of many missing tags, the reason is fetched for the first; each other one costs one HEAD."""
    hub = FakeHub()
    transport = Transport(CredentialStore(()), TransportOptions(attempts=1), app=hub.transport())
    wanted = [Reference.parse(f"ghcr.io/shop/app:{number}") for number in range(30)]
    found = await Resolver(transport, lambda _: True, explain=True).resolve(wanted)
    await transport.aclose()

    assert sum('"manifest unknown"' in str(each) for each in found.values()) == 10
    assert hub.counted["HEAD manifest"] == 30


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ({"message": "manifest unknown", "detail": "it was deleted"}, '"manifest unknown: it was deleted"'),
        ({"message": "manifest unknown", "detail": {"Tag": "9"}}, '"manifest unknown"'),
        ({"message": "unknown tag", "detail": "unknown tag"}, '"unknown tag"'),
        ({"message": "\x1b[31mred", "detail": "\u202e"}, '"\\x1b[31mred: \\u202e"'),
        ({"code": "NAME_UNKNOWN"}, '"NAME_UNKNOWN"'),
        ({}, ""),
    ],
)
def test_message_and_detail_are_shown_on_one_line(error: dict[str, object], text: str) -> None:
    """The registry's message and detail are one line without control characters."""
    body = JSONResponse({"errors": [error]}).body

    assert error_text(bytes(body)) == text
