"""`boltseal ledger receipt attach`, `find` and `--in-toto`, with a listening registry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from boltseal.ledger.note import COSIGNATURE, SigningKey
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.transfer.receipt_referrers import ARTIFACT_TYPE, MAX_READ
from tests import servers
from tests.cli import program
from tests.cli.program import Run
from tests.fakes.ledger import signing_key
from tests.images import Blob, Document, image, index, push, referrer
from tests.polling import until_signed
from tests.servers import Server

pytestmark = pytest.mark.slow

APP = index(image("amd64"), image("arm64"))
MOVED = image("moved")


@dataclass(frozen=True)
class Place:
    """A registry with sealed and mutable tags, and a client."""

    server: Server
    data: Path
    state: Path

    @property
    def key(self) -> str:
        """The ledger's key."""
        key = LedgerKeys(self.data.with_name("data.keys")).key()
        assert key is not None
        return str(key.verifier)

    def image(self, tag: str = "1.4.2") -> str:
        return f"{self.server.address}/shop/app:{tag}"

    def call(self, *arguments: str | Path) -> Run:
        return program.call("ledger", *arguments, environment={"BOLTSEAL_STATE": str(self.state)})

    def trust(self) -> None:
        """Announce an attestation key, and pin the ledger's key."""
        rotated = self.call("rotate", "--attestation", "--data", self.data, "--reason", "the first")
        assert rotated.code == 0, rotated.err
        assert self.call("trust", self.server.address, self.key).code == 0

    def push(self, *pushes: tuple[str, Document]) -> None:
        """Push images under tags of shop/app."""

        async def publish() -> None:
            async with httpx2.AsyncClient(base_url=self.server.url, trust_env=False, timeout=60) as client:
                for tag, document in pushes:
                    answer = await push(client, "shop/app", tag, document)
                    await until_signed(client, int(answer.headers["boltseal-ledger-index"]) + 1)

        asyncio.run(publish())

    def attach(self, subject: Document, *statements: bytes, artifact_type: str = ARTIFACT_TYPE) -> None:
        """Attach anything to an image, as a client may who can push."""

        async def attach() -> None:
            async with httpx2.AsyncClient(base_url=self.server.url, trust_env=False, timeout=60) as client:
                for raw in statements:
                    made = referrer(subject, artifact_type, Blob(raw, BUNDLE))
                    answer = await push(client, "shop/app", made.digest, made)
                    assert answer.status_code == httpx2.codes.CREATED, answer.text

        asyncio.run(attach())

    def statement(self, file: Path) -> bytes:
        """Return the statement about 1.4.2."""
        written = self.call("receipt", self.image(), "--in-toto", "-o", file)
        assert written.code == 0, written.err
        return file.read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with servers.boltseal(tmp_path / "data") as server:
        place = Place(server, tmp_path / "data", tmp_path / "state")
        place.push(("1.4.2", APP), ("latest", APP))
        yield place


def test_without_an_attestation_key_the_registry_says_how_to_make_one(place: Place) -> None:
    """A registry whose ledger announced no key attaches nothing, and the operator learns the command."""
    assert place.call("trust", place.server.address, place.key).code == 0
    run = place.call("receipt", "attach", place.image())
    key = place.call("key", "--attestation", "--data", place.data)

    assert (run.code, key.code) == (1, 1)
    assert "ledger rotate --attestation" in run.err
    assert "ledger rotate --attestation" in key.err


def test_without_a_pinned_key_nothing_is_attached(place: Place) -> None:
    """A statement that could not be verified is not passed on."""
    place.call("rotate", "--attestation", "--data", place.data, "--reason", "the first")
    run = place.call("receipt", "attach", place.image())

    assert run.code != 0
    assert f"boltseal ledger trust {place.server.address} KEY" in run.err


def test_a_receipt_is_attached_once_for_each_entry(place: Place) -> None:
    """Two tags of one image have a receipt each; attaching again adds none."""
    place.trust()
    runs = [place.call("receipt", "attach", place.image(tag), "--json") for tag in ("1.4.2", "latest", "1.4.2")]
    rows = [each.json["results"][0] for each in runs]
    listed = httpx2.get(f"{place.server.url}/v2/shop/app/referrers/{APP.digest}", trust_env=False, timeout=60).json()[
        "manifests"
    ]

    assert [each["status"] for each in rows] == ["attached", "attached", "unchanged"]
    assert rows[0]["referrer"] == rows[2]["referrer"]
    assert [each["artifactType"] for each in listed] == [ARTIFACT_TYPE, ARTIFACT_TYPE]
    assert {each["annotations"]["dev.boltseal.receipt.tag"] for each in listed} == {"shop/app:1.4.2", "shop/app:latest"}


def test_another_digest_than_the_tags_is_not_attached(place: Place) -> None:
    """A reference with a digest is attached only if the tag resolves to it."""
    place.trust()
    run = place.call("receipt", "attach", f"{place.image()}@sha256:{'0' * 64}")
    untagged = place.call("receipt", "attach", place.image().rpartition(":")[0])

    assert (run.code, untagged.code) == (1, 2)
    assert "expected sha256:000" in run.err


def test_a_mutable_tag_is_reported_as_such(place: Place) -> None:
    """The receipt of a tag that may have moved since says so; that of a sealed tag does not."""
    place.trust()
    for tag in ("latest", "1.4.2"):
        place.call("receipt", "attach", place.image(tag))
    mutable = place.call("receipt", "find", place.image("latest"), "--key", place.key)
    sealed = place.call("receipt", "find", place.image(), "--key", place.key)

    assert (mutable.code, sealed.code) == (0, 0)
    assert "may resolve to another image since" in mutable.err
    assert "may resolve to another image since" not in sealed.err


def test_a_moved_tag_is_not_proven_by_the_receipt_of_its_former_image(place: Place) -> None:
    """The receipt is attached to the former image, and the tag's image of now has none."""
    place.trust()
    place.call("receipt", "attach", place.image("latest"))
    place.push(("latest", MOVED))
    run = place.call("receipt", "find", place.image("latest"), "--key", place.key, "--json")

    assert (run.code, run.json["results"][0]["status"]) == (1, "missing")


def test_each_lie_about_an_attached_receipt_is_found(place: Place) -> None:
    """Another key, witness, tag, repository or digest than the receipt's is exit code 1, and the reason is printed."""
    place.trust()
    place.call("receipt", "attach", place.image())
    witness = SigningKey("witness.example", b"w" * 32, COSIGNATURE).verifier
    find = ("receipt", "find", place.image(), "--key")
    other_key = place.call(*find, str(signing_key("z", place.server.address).verifier))
    unseen = place.call(*find, place.key, "--witness", str(witness))
    other_tag = place.call(*find, place.key, "--about", place.image("1.4.3"))
    other_repository = place.call(*find, place.key, "--about", f"{place.server.address}/shop/other:1.4.2")
    other_digest = place.call(*find, place.key, "--about", f"{place.image()}@sha256:{'0' * 64}")
    untagged = place.call(*find, place.key, "--about", f"{place.server.address}/shop/app")

    assert [each.code for each in (other_key, unseen, other_tag, other_repository, other_digest)] == [1] * 5
    assert untagged.code == 2
    assert "none of the trusted keys signed" in other_key.err
    assert "witness.example did not cosign it" in unseen.err
    assert "expected shop/app:1.4.3" in other_tag.err
    assert "expected shop/other:1.4.2" in other_repository.err
    assert "expected sha256:000" in other_digest.err


def test_receipts_that_an_attacker_attached_do_not_count(place: Place) -> None:
    """A client that may push attaches damaged ones; the true one is found beside them, and alone they prove nothing."""
    place.trust()
    place.attach(APP, b"{}", b"no json", b"c2sp.org/tlog-proof@v1\n")
    alone = place.call("receipt", "find", place.image(), "--key", place.key)
    attached = place.call("receipt", "attach", place.image(), "--json")
    beside = place.call("receipt", "find", place.image(), "--key", place.key)

    assert (alone.code, attached.json["results"][0]["status"], beside.code) == (1, "attached", 0)
    assert alone.err.count("not counted: sha256:") == 3


def test_a_receipt_that_was_moved_to_another_image_does_not_count(place: Place, tmp_path: Path) -> None:
    """The true receipt of 1.4.2, attached to the image of another tag, proves neither that tag nor 1.4.2 for that image."""
    place.trust()
    place.push(("2.0.0", MOVED))
    place.attach(MOVED, place.statement(tmp_path / "app.json"))
    find = ("receipt", "find", place.image("2.0.0"), "--key", place.key)
    own_tag = place.call(*find)
    as_the_other = place.call(*find, "--about", place.image())

    assert (own_tag.code, as_the_other.code) == (1, 1)
    assert "it is about shop/app:1.4.2; expected shop/app:2.0.0" in own_tag.err
    assert f"it proves {APP.digest}; expected {MOVED.digest}" in as_the_other.err


def test_a_receipt_under_another_artifact_type_does_not_count(place: Place, tmp_path: Path) -> None:
    """A statement is looked for only under its own type, as other tools look for it."""
    place.trust()
    place.attach(APP, place.statement(tmp_path / "app.json"), artifact_type="application/vnd.example.other")
    run = place.call("receipt", "find", place.image(), "--key", place.key)

    assert run.code == 1
    assert "not counted" not in run.err


def test_more_receipts_than_are_read_could_not_be_checked(place: Place) -> None:
    """An attacker who hides the true receipt behind too many others gets exit code 3, and never 0."""
    place.attach(APP, *(str(number).encode() for number in range(MAX_READ + 1)))
    run = place.call("receipt", "find", place.image(), "--key", place.key)

    assert run.code == 3
    assert f"more receipts of {APP.digest} than are read" in run.err


def test_a_receipt_waits_for_a_witness_if_asked(place: Place) -> None:
    """Without the cosignature that the user requires nothing is attached: exit code 3, since it may come soon."""
    place.trust()
    witness = SigningKey("witness.example", b"w" * 32, COSIGNATURE).verifier
    run = place.call("receipt", "attach", place.image(), "--witness", str(witness))
    listed = httpx2.get(f"{place.server.url}/v2/shop/app/referrers/{APP.digest}", trust_env=False, timeout=60).json()[
        "manifests"
    ]

    assert (run.code, listed) == (3, [])
    assert "witness.example did not cosign it; repeat the command" in run.err


def test_a_written_statement_is_verified_offline(place: Place, tmp_path: Path) -> None:
    """The statement in a file is verified like a receipt, with the documents beside it; each lie is exit code 1."""
    place.trust()
    file = tmp_path / "app.sigstore.json"
    place.statement(file)
    verify = ("receipt", "verify", file, "--key")
    holds = place.call(*verify, place.key, "--about", place.image(), "--json")
    other_key = place.call(*verify, str(signing_key("z", place.server.address).verifier))
    other_tag = place.call(*verify, place.key, "--about", place.image("1.4.3"))
    other_digest = place.call(*verify, place.key, "--about", f"{place.image()}@sha256:{'0' * 64}")
    raw = file.read_bytes()
    file.write_bytes(raw.replace(b'"payload":"ey', b'"payload":"eX', 1))
    forged = place.call(*verify, place.key)

    assert holds.code == 0, holds.err
    assert holds.json["results"][0] | {"digest": APP.digest, "manifests": 3} == holds.json["results"][0]
    assert len(holds.json["results"][0]["attestation_key"]) == 64
    assert [each.code for each in (other_key, other_tag, other_digest, forged)] == [1] * 4
    assert f"it proves {APP.digest}; expected sha256:000" in other_digest.err


def test_keys_of_two_kinds_are_not_asked_for_at_once(place: Place) -> None:
    """`--attestation` and `--observations` name two keys."""
    both = ("--attestation", "--observations", "--data", place.data)

    assert place.call("key", *both).code == 2
    assert place.call("rotate", *both, "--reason", "x").code == 2
