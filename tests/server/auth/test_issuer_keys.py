"""The keys of an issuer: discovered, cached, rotated at a bounded rate, and never fetched from where they should not be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boltseal.policy.pipeline_rules import parse_issuers
from boltseal.server.auth.issuer_client import MAX_ANSWER_BYTES
from boltseal.server.auth.issuer_keys import (
    AGAIN_S,
    FRESH_S,
    TRUSTED_S,
    IssuerKeys,
    IssuerUnavailable,
)
from tests.fakes.issuer import DISCOVERY, Answer, Issuer, running_issuer


class Seconds:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


def keys_of(issuer: Issuer, clock: Seconds, **more: object) -> IssuerKeys:
    return IssuerKeys(parse_issuers([issuer.table(**more)])[0], clock, within_s=2.0)


async def test_keys_are_fetched_once_and_used_for_minutes(issuer: Issuer, clock: Seconds) -> None:
    """A known key costs no request until the keys are old."""
    keys = keys_of(issuer, clock)
    for _ in range(3):
        assert set(await keys.with_key("key-1")) == {"key-1"}
    before = list(issuer.asked)
    clock.now_s += FRESH_S
    await keys.with_key("key-1")

    assert before == [DISCOVERY, "/keys"]
    assert issuer.asked == before * 2


async def test_a_rotated_key_is_fetched_at_a_bounded_rate(issuer: Issuer, clock: Seconds) -> None:
    """An unknown identifier fetches the keys again, however many senders write one, only once in half a minute."""
    keys = keys_of(issuer, clock)
    await keys.with_key("key-1")
    issuer.rotate("key-2")
    for number in range(50):
        with pytest.raises(IssuerUnavailable, match="a moment ago"):
            await keys.with_key(f"unknown-{number}")
    during = len(issuer.asked)
    clock.now_s += AGAIN_S
    found = await keys.with_key("key-2")

    assert during == 2
    assert set(found) == {"key-2"}
    assert len(issuer.asked) == 4


async def test_keys_are_trusted_for_an_hour_while_the_issuer_is_down(issuer: Issuer, clock: Seconds) -> None:
    """A key that the issuer may have withdrawn is not used for ever."""
    keys = keys_of(issuer, clock)
    await keys.with_key("key-1")
    issuer.answers.clear()
    clock.now_s += TRUSTED_S - 1
    kept = await keys.with_key("key-1")
    clock.now_s += AGAIN_S
    with pytest.raises(IssuerUnavailable, match="HTTP 404"):
        await keys.with_key("key-1")

    assert set(kept) == {"key-1"}


async def test_an_issuer_that_is_back_is_asked_again(issuer: Issuer, clock: Seconds) -> None:
    """A failure is remembered briefly, and then tried again."""
    answers = dict(issuer.answers)
    issuer.answers.clear()
    keys = keys_of(issuer, clock)
    for _ in range(3):
        with pytest.raises(IssuerUnavailable):
            await keys.with_key("key-1")
    asked = len(issuer.asked)
    issuer.answers.update(answers)
    clock.now_s += AGAIN_S

    assert asked == 1
    assert set(await keys.with_key("key-1")) == {"key-1"}


LIES: dict[str, tuple[Callable[[Issuer], None], str]] = {
    "mix-up": (lambda issuer: issuer.publish(issuer="https://other.example.com"), "is of issuer"),
    "mix-up by a slash": (lambda issuer: issuer.publish(issuer=issuer.url + "/"), "is of issuer"),
    "keys over http": (
        lambda issuer: issuer.publish(jwks_uri="http://keys.example.com/k"),
        "expected an https address",
    ),
    "keys in a file": (lambda issuer: issuer.publish(jwks_uri="file:///etc/passwd"), "expected an https address"),
    "keys without host": (lambda issuer: issuer.publish(jwks_uri="https:///k"), "expected an https address"),
    "keys with a login": (lambda issuer: issuer.publish(jwks_uri="https://a@127.0.0.1/k"), "expected an https address"),
    "keys at a wrong port": (lambda issuer: issuer.publish(jwks_uri="https://a:99999/k"), "expected an https address"),
    "keys with a line": (lambda issuer: issuer.publish(jwks_uri="https://a/\nk"), "expected an https address"),
    "keys on loopback": (lambda issuer: issuer.publish(jwks_uri="https://127.0.0.1:1/k"), "not public"),
    "keys on localhost": (lambda issuer: issuer.publish(jwks_uri="https://localhost:1/k"), "not public"),
    "keys at the metadata service": (lambda issuer: issuer.publish(jwks_uri="https://169.254.169.254/k"), "not public"),
    "keys on mapped loopback": (lambda issuer: issuer.publish(jwks_uri="https://[::ffff:127.0.0.1]/k"), "not public"),
    "keys in a private network": (lambda issuer: issuer.publish(jwks_uri="https://10.0.0.1/k"), "not public"),
    "keys at another port of the issuer": (
        lambda issuer: issuer.publish(jwks_uri="http://127.0.0.1:1/k"),
        "expected an https address",
    ),
    "keys at a host with a long label": (
        lambda issuer: issuer.publish(jwks_uri=f"https://{'a' * 64}.example.com/k"),
        "does not answer",
    ),
    "keys at a host with an empty label": (
        lambda issuer: issuer.publish(jwks_uri="https://a..example.com/k"),
        "does not answer",
    ),
    "no jwks_uri": (lambda issuer: issuer.publish(jwks_uri=None), "discovery document is not valid"),
    "discovery is no JSON": (
        lambda issuer: issuer.answers.update({DISCOVERY: Answer(b"<html>")}),
        "discovery document is not valid",
    ),
    "discovery redirects": (
        lambda issuer: issuer.answers.update({DISCOVERY: Answer(b"", 302, {"location": "http://127.0.0.1:1/"})}),
        "HTTP 302",
    ),
    "keys redirect": (
        lambda issuer: issuer.answers.update({"/keys": Answer(b"", 307, {"location": "/other"})}),
        "HTTP 307",
    ),
    "keys are no set": (lambda issuer: issuer.answers.update({"/keys": Answer(b"[]")}), "not a JSON Web Key Set"),
    "two keys of one identifier": (
        lambda issuer: issuer.answers.update(
            {"/keys": Answer(json.dumps({"keys": json.loads(issuer.answers["/keys"].body)["keys"] * 2}).encode())}
        ),
        "two keys",
    ),
    "many keys": (
        lambda issuer: issuer.answers.update({"/keys": Answer(json.dumps({"keys": [{}] * 51}).encode())}),
        "at most 50",
    ),
    "endless keys": (
        lambda issuer: issuer.answers.update({"/keys": Answer(b" " * (MAX_ANSWER_BYTES + 1))}),
        "answered with more than",
    ),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lying_issuer_gives_no_keys(issuer: Issuer, clock: Seconds, name: str) -> None:
    """A discovery document or a set of keys that is not what it must be causes no request elsewhere, and no login."""
    lie, reason = LIES[name]
    lie(issuer)

    with pytest.raises(IssuerUnavailable, match=reason):
        await keys_of(issuer, clock).with_key("key-1")


async def test_a_host_in_an_internal_network_must_be_configured(issuer: Issuer, clock: Seconds) -> None:
    """`allow_keys_from` names it; then the connection is tried, and nothing listens there."""
    issuer.publish(jwks_uri="https://localhost:1/k")

    with pytest.raises(IssuerUnavailable, match="does not answer"):
        await keys_of(issuer, clock, allow_keys_from=["localhost"]).with_key("key-1")


async def test_a_missing_certificate_authority_is_named(issuer: Issuer, clock: Seconds, tmp_path: Path) -> None:
    """An unreadable `ca_file` is a reason, and not an error of the server."""
    with pytest.raises(IssuerUnavailable, match="ca_file"):
        await keys_of(issuer, clock, ca_file=str(tmp_path / "missing.pem")).with_key("key-1")


async def test_an_issuer_that_does_not_answer_is_given_up(clock: Seconds) -> None:
    """A closed port is a reason to try the login again."""
    with running_issuer() as gone:
        pass

    with pytest.raises(IssuerUnavailable, match="does not answer"):
        await keys_of(gone, clock).with_key("key-1")
