"""Statements about entries over HTTP: who may read them, by which key they are signed, and what has none."""

from __future__ import annotations

from pathlib import Path

import bcrypt
import pytest

from boltseal.errors import Invalid
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.receipt_attestation import open_attestation
from boltseal.server.commands.attestation_keys import public_attestation_key, rotate_attestation
from boltseal.server.registry.attestations import NoAttestationKey
from boltseal.server.settings import Settings
from boltseal.server.storage.attestation_key import AttestationKeys
from boltseal.server.storage.ledger_mark import LedgerKeyUnreadable
from boltseal.signatures.sigstore_bundle import BUNDLE
from tests.images import image, push
from tests.logins import as_user
from tests.polling import until_signed
from tests.serving import Serving, ledger_key, serving_as
from tests.storage_choice import with_storage

APP = image("app")


def key_file(registry: Serving) -> Path:
    return registry.data.with_name("data.keys") / "attestation.key"


def settings_of_store(registry: Serving) -> Settings:
    return with_storage(Settings.model_validate({"server": {"data": registry.data}}))


async def pushed(registry: Serving, tag: str = "1.4.2") -> int:
    """Push an image; return the index of the tag's signed entry."""
    index = int((await push(registry.client, "shop/app", tag, APP)).headers["boltseal-ledger-index"])
    await until_signed(registry.client, index + 1)
    return index


async def announce(registry: Serving) -> str:
    """Make an attestation key beside the running server; return it in PEM, when its announcement is signed."""
    made = rotate_attestation(settings_of_store(registry), "in the test")
    return made.pem


async def test_a_registry_signs_statements_once_its_ledger_has_announced_a_key(registry: Serving) -> None:
    """Before, there is no statement; after, the ledger's key proves key, tag and digest. The server is not restarted."""
    index = await pushed(registry)
    before = await registry.client.get(f"/ledger/attestation/{index}")
    await announce(registry)
    answer = await registry.client.get(f"/ledger/attestation/{index}")
    opened = open_attestation(answer.content, ledger_key(registry.data))

    assert before.status_code == 404
    assert "announced no attestation key" in before.text
    assert (answer.status_code, answer.headers["content-type"], answer.headers["cache-control"]) == (
        200,
        BUNDLE,
        "no-store",
    )
    assert (opened.receipt.index, opened.receipt.entry.digest) == (index, APP.digest)
    assert opened.announcement.entry.kind is EntryKind.KEY_ANNOUNCED
    assert opened.announcement.entry.reason == "in the test"


async def test_the_public_key_is_the_announced_one(registry: Serving) -> None:
    """The operator gets the key that the ledger announced last, and a refusal before there is one."""
    with pytest.raises(NoAttestationKey):
        public_attestation_key(settings_of_store(registry))
    first = await announce(registry)
    second = await announce(registry)
    shown = public_attestation_key(settings_of_store(registry))

    assert first != second
    assert (shown.pem, shown.origin) == (second, "localhost:5000")


async def test_a_rotation_reaches_a_running_server(registry: Serving) -> None:
    """After a rotation statements are signed by the new key; those of the former key stay valid."""
    index = await pushed(registry)
    await announce(registry)
    before = (await registry.client.get(f"/ledger/attestation/{index}")).content
    await announce(registry)
    after = (await registry.client.get(f"/ledger/attestation/{index}")).content
    keys = [open_attestation(each, ledger_key(registry.data)) for each in (before, after)]

    assert keys[0].key != keys[1].key
    assert keys[0].announcement.index < keys[1].announcement.index


async def test_a_killed_rotation_signs_with_the_announced_key(registry: Serving) -> None:
    """A process that dies after the announcement leaves the new key beside the former one: it signs, and the next rotation works."""
    index = await pushed(registry)
    await announce(registry)
    former = key_file(registry).read_bytes()
    await announce(registry)
    key_file(registry).replace(key_file(registry).with_name("attestation.key.next"))
    key_file(registry).write_bytes(former)
    killed = await registry.client.get(f"/ledger/attestation/{index}")
    await announce(registry)
    following = await registry.client.get(f"/ledger/attestation/{index}")

    assert [each.status_code for each in (killed, following)] == [200, 200]
    assert not key_file(registry).with_name("attestation.key.next").exists()


async def test_a_rotation_that_was_killed_before_its_announcement_changes_nothing(registry: Serving) -> None:
    """A key that the ledger has not announced signs nothing."""
    index = await pushed(registry)
    await announce(registry)
    AttestationKeys(key_file(registry).parent).make_next()
    answer = await registry.client.get(f"/ledger/attestation/{index}")

    assert open_attestation(answer.content, ledger_key(registry.data)).receipt.index == index


async def test_a_lost_key_is_no_silent_change(registry: Serving) -> None:
    """A server without the announced key refuses (503), also with another key in its place; a rotation helps."""
    index = await pushed(registry)
    await announce(registry)
    key_file(registry).unlink()
    async with serving_as(settings_of_store(registry)) as restarted:
        lost = await restarted.client.get(f"/ledger/attestation/{index}")
        keys = AttestationKeys(key_file(registry).parent)
        keys.put_into_force(keys.make_next())
        other = await restarted.client.get(f"/ledger/attestation/{index}")
        await announce(restarted)
        again = await restarted.client.get(f"/ledger/attestation/{index}")

    assert [each.status_code for each in (lost, other, again)] == [503, 503, 200]
    assert "copy attestation.key" in lost.text


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
async def test_an_unreadable_key_refuses(registry: Serving, content: bytes) -> None:
    """A damaged file of the key is an error and no reason to sign with another one."""
    await pushed(registry)
    await announce(registry)
    key_file(registry).write_bytes(content)
    with pytest.raises(LedgerKeyUnreadable, match="attestation key"):
        await announce(registry)


async def test_a_key_of_another_type_refuses(registry: Serving) -> None:
    """Only the type of key that every verifier reads is used."""
    await announce(registry)
    key_file(registry).write_bytes(ED25519)
    with pytest.raises(LedgerKeyUnreadable, match=r"EC on P-256"):
        await announce(registry)


ED25519 = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
-----END PRIVATE KEY-----
"""


async def test_the_private_key_is_private(registry: Serving) -> None:
    """Only the account of the server can read the key."""
    await announce(registry)

    assert key_file(registry).stat().st_mode & 0o777 == 0o600
    assert key_file(registry).parent.stat().st_mode & 0o777 == 0o700


async def test_an_entry_that_gives_no_tag_an_image_has_no_statement(registry: Serving) -> None:
    """The start of the log, and an index that is not signed, have no statement."""
    await pushed(registry)
    await announce(registry)
    answers = [await registry.client.get(f"/ledger/attestation/{index}") for index in (0, 99)]

    assert [each.status_code for each in answers] == [400, 404]
    assert "there is no statement of it" in answers[0].text


async def test_observations_have_no_statements(registry: Serving) -> None:
    """The log of observations signs none."""
    await announce(registry)

    assert (await registry.client.get("/ledger/observations/attestation/0")).status_code == 404


async def test_a_reason_is_required(registry: Serving) -> None:
    """A key is announced with a reason."""
    with pytest.raises(Invalid, match="reason"):
        rotate_attestation(settings_of_store(registry), " ")


async def test_a_statement_needs_the_right_to_pull(data: Path) -> None:
    """A statement is read by those who may read the receipt."""
    hashed = bcrypt.hashpw(b"pw-dev", bcrypt.gensalt(4)).decode()
    other = bcrypt.hashpw(b"pw-other", bcrypt.gensalt(4)).decode()
    (data.with_name("data.keys") / "htpasswd").write_text(f"dev:{hashed}\nother:{other}\n")
    auth = {"grant": [{"users": ["dev"], "repository": "shop/**", "actions": ["pull", "push"]}]}
    settings = Settings.model_validate({"server": {"data": data}, "auth": auth})
    async with serving_as(settings) as registry:
        registry.client.headers.update(as_user("dev"))
        index = await pushed(registry)
        await announce(registry)
        mine = await registry.client.get(f"/ledger/attestation/{index}")
        registry.client.headers.update(as_user("other"))
        others = await registry.client.get(f"/ledger/attestation/{index}")
        del registry.client.headers["authorization"]
        anonymous = await registry.client.get(f"/ledger/attestation/{index}")

    assert [each.status_code for each in (mine, others, anonymous)] == [200, 403, 401]
