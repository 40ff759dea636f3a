"""Why a tag is not there: the registry's own reason is in the message."""

from __future__ import annotations

import pytest
from starlette.responses import JSONResponse, Response

from boltseal.client.credentials import CredentialStore
from boltseal.client.errors import RemoteNotFound, error_text
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport, TransportOptions
from boltseal.oci.reference import Reference, Repository, Tag
from boltseal.project.resolve import Resolver
from tests.fakes.hub import FakeHub

SHOP = Repository("shop/app")


async def missing(hub: FakeHub, registry: str) -> str:
    """Return the message of a tag that this registry does not have."""
    transport = Transport(CredentialStore(()), TransportOptions(attempts=1), app=hub.transport())
    with pytest.raises(RemoteNotFound) as refused:
        await RegistryClient(transport, registry).resolve_explained(SHOP, Tag("9"))
    await transport.aclose()
    return refused.value.message


async def test_the_reason_of_the_registry_is_in_the_message() -> None:
    """A HEAD has no body, so that the reason is asked for."""
    hub = FakeHub()

    assert await missing(hub, "ghcr.io") == 'ghcr.io has no manifest 9 of shop/app: "manifest unknown"'
    assert hub.counted["GET manifest"] == 1


async def test_no_reason_is_asked_for_where_pulls_are_counted() -> None:
    """Docker Hub counts a GET of a manifest."""
    hub = FakeHub()

    assert await missing(hub, "docker.io") == "docker.io has no manifest 9 of shop/app (HTTP 404)"
    assert hub.counted["GET manifest"] == 0


async def test_another_answer_to_the_question_for_the_reason_changes_nothing() -> None:
    """The tag is missing, whatever else fails."""
    hub = FakeHub(failures=[Response(status_code=404), JSONResponse({"errors": []}, 500)])

    assert await missing(hub, "ghcr.io") == "ghcr.io has no manifest 9 of shop/app (HTTP 404)"


async def test_the_tags_of_a_project_get_the_reason_too() -> None:
    """For the first of many; the others cost one HEAD, as before."""
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
    """What the registry writes can't draw on the terminal."""
    body = JSONResponse({"errors": [error]}).body

    assert error_text(bytes(body)) == text
