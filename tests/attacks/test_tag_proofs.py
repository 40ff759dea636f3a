"""Attacks of a registry on the proofs of its tags, against a client that trusts the key of its ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import stamina

from boltseal.client.errors import RemoteNotFound
from boltseal.client.ledger_trust import LedgerWatch, give_key
from boltseal.client.registry_client import RegistryClient
from boltseal.client.state import ClientState
from boltseal.client.tag_proofs import TagProof, TagProofs, TagUnproven
from boltseal.ledger.checkpoint import Checkpoint, sign_checkpoint
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.follow import Fault, LedgerBroken
from boltseal.ledger.tag_proof import Freshness, ProvenState
from boltseal.oci.reference import Repository, Tag
from tests.fakes.ledger import ORIGIN, A, B, FakeLedger, signing_key

HOST = "reg.example:5000"
SHOP, SEALED, LATEST = Repository("shop/app"), "1.4.2", "latest"


@dataclass
class Client:
    """A client that trusts the ledger's key. `proofs`: of everything that it resolved."""

    ledger: FakeLedger
    state: ClientState
    proofs: list[TagProof] = field(default_factory=list)

    async def resolve(self, tag: str = SEALED, host: str = HOST) -> str:
        transport = self.ledger.transport()
        watch = LedgerWatch(self.state, transport, lambda: 1)
        transport.prover = TagProofs(transport, self.state, watch.follow, self.proofs.append, (0.0, 0.0, 0.0))
        try:
            return str((await RegistryClient(transport, host).resolve(SHOP, Tag(tag))).digest)
        finally:
            await transport.aclose()

    async def alarm(self, tag: str = SEALED) -> Fault:
        with pytest.raises(LedgerBroken) as broken:
            await self.resolve(tag)
        return broken.value.fault

    async def unproven(self, tag: str = SEALED) -> str:
        with pytest.raises(TagUnproven) as refused:
            await self.resolve(tag)
        return refused.value.message


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    """Requests are repeated less often and without pauses."""
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """The ledger says: 1.4.1 and 1.4.2 sealed at A, `latest` first at B and then at A, and one more entry of another tag."""
    ledger = FakeLedger()
    ledger.push("1.4.1", SEALED)
    ledger.push(LATEST, digest=B, mode="floating")
    ledger.push(LATEST, digest=A, mode="floating")
    ledger.push("1.4.3", digest=B)
    state = ClientState(tmp_path / "state")
    give_key(state, HOST, signing_key().verifier, 1)
    return Client(ledger, state)


async def test_an_honest_answer_is_proven(client: Client) -> None:
    """The client proves a sealed tag by the entry that sealed it, and a mutable tag by its last entry."""
    sealed, mutable = await client.resolve(), await client.resolve(LATEST)
    found = [(one.proven.state, one.proven.entry, one.proven.freshness) for one in client.proofs]

    assert (sealed, mutable) == (A, A)
    assert found == [(ProvenState.SEALED, 2, None), (ProvenState.MUTABLE, 4, Freshness.PROVEN)]


async def test_a_sealed_tag_resolves_to_another_digest(client: Client) -> None:
    """The client reports a second digest of a sealed tag at once, and saves the evidence."""
    client.ledger.tags[SHOP, SEALED] = B

    assert await client.alarm() is Fault.SECOND_DIGEST
    assert client.ledger.counted["tags"] == 1
    assert [path.name for path in (client.state.folder / "evidence").glob("*/*")]


@pytest.mark.parametrize("host", ["REG.example:5000", "Reg.Example:5000"])
async def test_a_host_in_upper_case_is_the_trusted_registry(client: Client, host: str) -> None:
    """A reference that spells the host in another way reaches the same registry, so its tags are proven as well."""
    client.ledger.tags[SHOP, SEALED] = B
    with pytest.raises(LedgerBroken) as broken:
        await client.resolve(host=host)

    assert broken.value.fault is Fault.SECOND_DIGEST


async def test_a_sealed_tag_is_moved_by_a_signed_entry(client: Client) -> None:
    """A signed entry that moves a sealed tag contradicts the entry that sealed it."""
    client.ledger.push(SEALED, digest=B)

    assert await client.alarm() is Fault.SECOND_DIGEST


async def test_a_sealed_tag_is_moved_by_a_signed_entry_and_the_old_digest_is_served(client: Client) -> None:
    """The sealing entry and a later move contradict each other, even if the registry returns the sealed digest."""
    client.ledger.push(SEALED, digest=B)
    client.ledger.tags[SHOP, SEALED] = A

    assert await client.alarm() is Fault.SECOND_DIGEST


async def test_a_sealed_tag_is_made_mutable_by_a_signed_entry(client: Client) -> None:
    """A later entry can't take a seal back."""
    client.ledger.push(SEALED, digest=B, mode="floating")

    assert await client.alarm() is Fault.SECOND_DIGEST


async def test_a_mutable_tag_resolves_to_what_no_entry_says(client: Client) -> None:
    """The client raises the alarm after its retries for a tag that moves between two requests."""
    client.ledger.tags[SHOP, LATEST] = B

    assert await client.alarm(LATEST) is Fault.OTHER_DIGEST
    assert client.ledger.counted["tags"] > 2


async def test_an_old_entry_of_a_mutable_tag_is_replayed(client: Client) -> None:
    """If a registry hides the newest entry of a mutable tag, the client does not report the proof as fresh."""
    client.ledger.tags[SHOP, LATEST] = B
    client.ledger.tag_indices = [3]
    found = await client.resolve(LATEST)

    assert found == B
    assert client.proofs[0].proven.freshness is Freshness.NOT_PROVEN


async def test_freshness_is_not_proven_to_a_login_that_may_not_read_the_entries(client: Client) -> None:
    """A login without the right `ledger` proves a mutable tag without proving that it is fresh."""
    client.ledger.entries_status = 403
    await client.resolve(LATEST)

    assert client.proofs[0].proven.freshness is Freshness.NOT_PROVEN


async def test_forged_entries_do_not_prove_freshness(client: Client) -> None:
    """Entries that do not add up to the signed root prove no freshness."""
    hidden = client.ledger.copy()
    hidden.push(LATEST, digest=B, mode="floating")
    client.ledger.bundle = hidden.tile_of_entries(6)
    await client.resolve(LATEST)

    assert client.proofs[0].proven.freshness is Freshness.NOT_PROVEN


@pytest.mark.parametrize(
    ("indices", "why"),
    [([1], "not a change of shop/app:1.4.2"), ([0], "log.started"), ([5], "1.4.3"), ([2, 1], "rising"), ([9], "below")],
    ids=["another tag", "no tag", "a later tag", "wrong order", "after the checkpoint"],
)
async def test_an_entry_that_is_not_of_the_tag_proves_nothing(client: Client, indices: list[int], why: str) -> None:
    """An entry of another tag, of none, in a wrong order or beyond the checkpoint is refused."""
    client.ledger.tag_indices = indices
    client.ledger.tag_lines = [client.ledger.entries[min(index, 5)] for index in indices]
    client.ledger.tag_proof_size = max(6, *(index + 1 for index in indices))
    client.ledger.entries += [] if max(indices) < 6 else [client.ledger.entries[5]] * 4
    client.ledger.shown = 6

    assert why in await client.unproven()


async def test_an_entry_of_another_repository_proves_nothing(client: Client) -> None:
    """An entry of another repository proves nothing, even if its tag and digest are right."""
    index = client.ledger.add(EntryKind.TAG_CREATED, A, repository="shop/other", tag=SEALED)
    client.ledger.tag_indices = [index]

    assert "shop/other:1.4.2" in await client.unproven()


async def test_an_entry_of_another_ledger_proves_nothing(client: Client) -> None:
    """An entry with the right name and digest proves nothing if the signed tree does not contain it."""
    other = FakeLedger(key=signing_key("z", "other.example"))
    other.push("1.4.1", SEALED, digest=B)
    client.ledger.tags[SHOP, SEALED] = B
    client.ledger.tag_indices, client.ledger.tag_lines = [2], [other.entries[2]]

    assert "not in the signed ledger" in await client.unproven()


async def test_an_entry_with_another_digest_proves_nothing(client: Client) -> None:
    """The real entry with one value replaced has another leaf hash."""
    client.ledger.tags[SHOP, SEALED] = B
    client.ledger.tag_indices = [2]
    client.ledger.tag_lines = [client.ledger.entries[2].replace(A.encode(), B.encode())]

    assert "not in the signed ledger" in await client.unproven()


async def test_a_digest_of_another_algorithm_is_another_digest(client: Client) -> None:
    """The client compares the algorithm of a digest as well as its hexadecimal digits."""
    client.ledger.tags[SHOP, SEALED] = "sha512:" + A.removeprefix("sha256:") * 2

    assert await client.alarm() is Fault.SECOND_DIGEST


async def test_a_proof_for_another_size_proves_nothing(client: Client) -> None:
    """The proof must be in the tree of the checkpoint that was checked."""
    client.ledger.tag_proof_size = 4

    assert "not in the signed ledger" in await client.unproven()


async def test_a_forked_checkpoint_is_no_checkpoint(client: Client) -> None:
    """The ledger itself is refused before any tag is asked for."""
    await client.resolve()
    client.ledger.checkpoint = sign_checkpoint(Checkpoint("reg.example", 6, b"f" * 32), client.ledger.key)

    assert await client.alarm() is Fault.FORKED


async def test_a_checkpoint_signed_by_another_key_is_refused(client: Client) -> None:
    """A checkpoint that a key other than the trusted one signed is refused."""
    client.ledger.key = signing_key("z")

    assert await client.alarm() is Fault.UNKNOWN_KEY


@pytest.mark.parametrize("status", [401, 403, 404, 405, 503])
async def test_a_registry_that_does_not_show_the_entries_is_refused(client: Client, status: int) -> None:
    """A missing route, a missing right and a failed request each leave the tag unproven."""
    client.ledger.tags_status = status

    assert "can't prove" in await client.unproven()


async def test_the_entries_of_a_sealed_tag_are_omitted(client: Client) -> None:
    """A tag without entries that resolves to a digest contradicts the ledger."""
    client.ledger.tag_indices = []

    assert await client.alarm() is Fault.OTHER_DIGEST


async def test_an_observation_does_not_lift_a_seal(client: Client) -> None:
    """A mirror has sealed a tag of an upstream, and shows what it observed there later: the sealed digest counts."""
    observed = client.ledger.observations = FakeLedger(key=signing_key("o", f"{ORIGIN}/observations"))
    observed.add(EntryKind.OBSERVED, B, tag=SEALED, extra={})
    give_key(client.state, f"{HOST}/observations", observed.key.verifier, 1)
    client.ledger.tags[SHOP, SEALED] = B

    assert await client.alarm() is Fault.SECOND_DIGEST
    assert client.proofs == []


async def test_a_tag_of_an_upstream_is_proven_by_its_observation(client: Client) -> None:
    """The mirror's own ledger has no entry of it."""
    observed = client.ledger.observations = FakeLedger(key=signing_key("o", f"{ORIGIN}/observations"))
    observed.add(EntryKind.OBSERVED, B, tag="9.0", extra={})
    give_key(client.state, f"{HOST}/observations", observed.key.verifier, 1)
    client.ledger.tags[SHOP, "9.0"] = B

    assert await client.resolve("9.0") == B
    assert [one.proven.state for one in client.proofs] == [ProvenState.OBSERVED]


async def test_a_deleted_tag_is_proven_gone(client: Client) -> None:
    """A tag whose last entry removed it, with a tombstone of the sealed digest, is proven to be deleted."""
    client.ledger.add(EntryKind.TAG_UNSEALED, A, tag=SEALED, extra={"mode": "sealed", "keep": "deletable"})
    client.ledger.add(EntryKind.TAG_DELETED, A, tag=SEALED, extra={})
    client.ledger.tombstones[SHOP, SEALED] = A
    with pytest.raises(RemoteNotFound):
        await client.resolve()

    assert client.proofs[0].proven.state is ProvenState.DELETED


@pytest.mark.parametrize("tombstone", ["", B], ids=["removed", "of another digest"])
async def test_a_tombstone_is_removed_or_replaced(client: Client, tombstone: str) -> None:
    """The client reports a deleted sealed tag whose tombstone is missing or has another digest."""
    client.ledger.add(EntryKind.TAG_PURGED, A, tag=SEALED, extra={})
    client.ledger.tombstones[SHOP, SEALED] = tombstone

    assert await client.alarm() is Fault.SECOND_DIGEST


async def test_a_deleted_tag_still_resolves(client: Client) -> None:
    """The client reports a tag that resolves to a digest although its last entry deleted it."""
    client.ledger.add(EntryKind.TAG_DELETED, A, tag=LATEST, extra={})
    client.ledger.tags[SHOP, LATEST] = A

    assert await client.alarm(LATEST) is Fault.OTHER_DIGEST


async def test_a_tag_that_moves_between_the_requests_is_no_alarm(client: Client) -> None:
    """The checkpoint that is read first is older than the answer; the next one covers the new entry."""
    old = client.ledger.note()
    client.ledger.push(LATEST, digest=B, mode="floating")
    client.ledger.shown_later = old

    assert await client.resolve(LATEST) == B
