"""The admission webhook against a real registry: a tag becomes the digest that the ledger proves, and nothing else is admitted."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from boltseal.commands.admission import AdmissionWebhook
from boltseal.commands.admission_images import (
    MAX_WAITING_OF_ONE,
    AdmissionImages,
    AdmissionTerms,
    ImageGlob,
    read_trust,
    trust_ledgers,
)
from boltseal.commands.client_context import ClientContext
from boltseal.commands.registry_access import RegistryOptions
from boltseal.config import client_paths
from boltseal.errors import Invalid
from boltseal.ledger.note import COSIGNATURE, SigningKey, VerifierKey
from boltseal.server.registry.witness_service import KEY_NAME
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from tests.deploy.kube.reviews import object_of, review
from tests.images import image, push
from tests.polling import until, until_answer, until_signed
from tests.servers import Server
from tests.thread_server import boltseal_in_thread

RIGHT, WRONG = image("the published image"), image("another image")
WITNESS = SigningKey("witness.test/w", bytes(range(32)), COSIGNATURE).verifier
NOW_US = 1_795_500_000_000_000


@dataclass
class Cluster:
    """A registry with `shop/app`: `1.4.2` sealed and `latest` mutable, and a webhook that trusts its ledger. `now_s`: a clock."""

    server: Server
    state: Path
    now_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def key(self) -> VerifierKey:
        found = LedgerKeys(self.server.folder.with_name(f"{self.server.folder.name}.keys")).key()
        assert found is not None
        return found.verifier

    def name(self, tag: str) -> str:
        return f"{self.server.address}/shop/app:{tag}"

    def webhook(self, **terms: Any) -> AdmissionWebhook:
        """Return a webhook with a memory of its own."""
        client = ClientContext(client_paths(), self.state, lambda: NOW_US, lambda _: None, self.asked.append)
        options = RegistryOptions(client, anonymous=True)
        registries = trust_ledgers(options, read_trust(f"{self.server.address} {self.key}\n".encode()))
        images = AdmissionImages(options, AdmissionTerms(registries, **terms), lambda: self.now_s)
        return AdmissionWebhook(images, lambda *words: self.refused.append(" ".join(words)))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    with boltseal_in_thread(tmp_path / "data") as server:
        asyncio.run(publish(server))
        yield Cluster(server, tmp_path / "state")


async def publish(server: Server) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        for tag, document in (("other", WRONG), ("latest", RIGHT), ("1.4.2", RIGHT)):
            answer = await push(client, "shop/app", tag, document)
        await until_signed(client, int(answer.headers["boltseal-ledger-index"]) + 1)


def pod(*images: str) -> dict[str, Any]:
    return object_of("Pod", {"containers": [{"name": str(at), "image": each} for at, each in enumerate(images)]})


async def mutate(webhook: AdmissionWebhook, *images: str, within_s: float = 20.0) -> dict[str, Any]:
    """Return the response to the creation of a pod."""
    response: dict[str, Any] = json.loads(await webhook.mutate(review(pod(*images)), within_s))["response"]
    return response


async def validate(webhook: AdmissionWebhook, *images: str) -> dict[str, Any]:
    response: dict[str, Any] = json.loads(await webhook.validate(review(pod(*images))))["response"]
    return response


def patched(response: dict[str, Any]) -> list[str]:
    """Return the images that the patch writes."""
    assert response["allowed"], response
    return [each["value"] for each in json.loads(b64decode(response["patch"]))] if "patch" in response else []


def message(response: dict[str, Any]) -> str:
    assert not response["allowed"]
    text: str = response["status"]["message"]
    return text


async def test_a_tag_becomes_its_proven_digest_and_a_second_review_changes_nothing(cluster: Cluster) -> None:
    """Sealed and mutable tags, and none at all, are replaced by the digest; both webhooks then admit the object as it is."""
    webhook = cluster.webhook()
    written = [cluster.name("1.4.2"), cluster.name("latest"), cluster.name("latest").removesuffix(":latest")]
    pinned = patched(await mutate(webhook, *written))

    assert pinned == [f"{each}@{RIGHT.digest}" for each in written]
    assert patched(await mutate(webhook, *pinned)) == []
    assert (await validate(webhook, *pinned))["allowed"]
    assert "it is a tag, and not a digest" in message(await validate(webhook, *written))


async def test_images_that_nothing_proves_are_refused(cluster: Cluster) -> None:
    """Unknown tags, other registries (by tag and by digest), and what is no reference are refused, with the reason of each."""
    webhook = cluster.webhook()
    refused = {
        cluster.name("9.9.9"): "9.9.9",
        "nginx:1.25": "no ledger key is trusted for docker.io",
        f"evil.example.com/app@{RIGHT.digest}": "no ledger key is trusted for evil.example.com",
        "localhost/../x:1": "",
        "http://evil.example.com/x": "is a URL",
        "-": "",
        "x" * 5000: "",
        "169.254.169.254/latest/meta-data:1": "no ledger key is trusted",
    }
    for written, reason in refused.items():
        assert reason in message(await mutate(webhook, cluster.name("1.4.2"), written)), written

    assert len(cluster.refused) == len(refused)
    assert all(cluster.server.address in line for line in cluster.asked)


@pytest.mark.files_only("changes a row of SQLite")
async def test_a_registry_that_lies_about_a_sealed_tag_is_refused_also_if_open(cluster: Cluster) -> None:
    """A digest that contradicts the ledger is refused, whatever the operator chose for what can't be checked."""
    with closing(sqlite3.connect(cluster.server.folder / DATABASE_NAME, isolation_level=None)) as database:
        statement = "UPDATE tag SET digest = ?, canonical = ?, sealed_digest = ?, sealed_canonical = ? WHERE name = ?"
        database.execute(statement, [WRONG.digest] * 4 + ["1.4.2"])
    for fail_open in (False, True):
        response = await mutate(cluster.webhook(fail_open=fail_open), cluster.name("1.4.2"))

        assert "can't be trusted" in message(response)


async def test_what_cannot_be_checked_is_refused_or_admitted_as_configured(tmp_path: Path, cluster: Cluster) -> None:
    """A registry that does not answer refuses the object, or with fail_open admits it with a warning, and without a patch."""
    late = await mutate(cluster.webhook(), cluster.name("1.4.2"), within_s=0.0)
    warned = await mutate(cluster.webhook(fail_open=True), cluster.name("1.4.2"), within_s=0.0)
    final = await validate(cluster.webhook(fail_open=True), cluster.name("1.4.2"))

    assert "did not answer in time" in message(late)
    assert patched(warned) == []
    assert "did not answer in time" in warned["warnings"][0]
    assert final["allowed"]
    assert "it is a tag" in final["warnings"][0]


async def test_a_required_witness_must_have_cosigned_the_receipt(cluster: Cluster) -> None:
    """Without the cosignature of the witness the image can't be checked, although the ledger proves it."""
    webhook = cluster.webhook(witnesses=(WITNESS,))

    assert "the receipt has no cosignature of witness.test/w yet" in message(
        await mutate(webhook, cluster.name("1.4.2"))
    )


async def test_a_cosigned_receipt_is_enough(tmp_path: Path, cluster: Cluster) -> None:
    """A registry whose checkpoints another registry cosigns is admitted with that registry's key as the required witness."""
    data = tmp_path / "cosigned" / "data"
    data.parent.mkdir()
    with boltseal_in_thread(data):
        pass
    log = LedgerKeys(data.with_name("data.keys")).key()
    assert log is not None
    logs = f'[witness_service]\nlogs = ["{log.verifier}"]\n'
    with boltseal_in_thread(tmp_path / "witness", logs) as other:
        key = LedgerKeys(tmp_path / "witness.keys").of(KEY_NAME).key()
        assert key is not None
        asks = f'[[witness]]\nurl = "{other.url}/witness"\nkey = "{key.verifier}"\n'
        with boltseal_in_thread(data, asks) as server:
            async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:

                async def ready() -> bool:
                    return (await client.get("/readyz")).status_code == 200

                await until_answer(ready, "the witness agrees")
            await publish(server)
            cosigned = Cluster(server, cluster.state)
            webhook = cosigned.webhook(witnesses=(key.verifier,))

            async def admitted() -> dict[str, Any]:
                response = await mutate(webhook, cosigned.name("1.4.2"))
                return response if response["allowed"] else {}

            response = await until_answer(admitted, "the receipt is cosigned")

    assert patched(response) == [f"{cosigned.name('1.4.2')}@{RIGHT.digest}"]


async def test_images_that_the_operator_leaves_alone_are_admitted_as_they_are(cluster: Cluster) -> None:
    """`--unchecked` names a registry and repositories in it; it does not match the same repository elsewhere."""
    globs = (ImageGlob.parse("registry.k8s.io/**"), ImageGlob.parse("docker.io/library/nginx"))
    webhook = cluster.webhook(unchecked=globs)
    admitted = ("registry.k8s.io/pause:3.10", "nginx:1.25", "registry.k8s.io/a/b@" + RIGHT.digest)

    assert patched(await mutate(webhook, *admitted)) == []
    assert (await validate(webhook, *admitted))["allowed"]
    for other in (
        "evil.example.com/registry.k8s.io/pause:3.10",
        "evil.example.com/library/nginx:1",
        "docker.io/library/nginxx:1",
    ):
        assert not (await mutate(webhook, other))["allowed"]
    for text in ("", "nginx", "library/nginx", "registry.k8s.io/", "registry.k8s.io/[", "**"):
        with pytest.raises(Invalid):
            ImageGlob.parse(text)


async def test_what_was_proven_is_remembered_for_a_time(cluster: Cluster) -> None:
    """A mutable tag is asked for again after `remembered_s`, a sealed one after an hour; refusals are not remembered."""
    webhook = cluster.webhook(remembered_s=10.0)

    async def requests(tag: str) -> int:
        before = len(cluster.asked)
        await mutate(webhook, cluster.name(tag))
        return len(cluster.asked) - before

    first = [await requests("latest"), await requests("1.4.2"), await requests("9.9.9")]
    again = [await requests("latest"), await requests("1.4.2"), await requests("9.9.9")]
    cluster.now_s += 11
    later = [await requests("latest"), await requests("1.4.2")]
    cluster.now_s += 3600
    last = await requests("1.4.2")

    assert all(first)
    assert again[:2] == [0, 0]
    assert again[2] > 0
    assert later[0] > 0
    assert later[1] == 0
    assert last > 0


async def test_reviews_at_once_ask_for_an_image_once(cluster: Cluster) -> None:
    """Twenty pods of one image that are created together cost the registry one resolution."""
    webhook = cluster.webhook()
    await mutate(webhook, cluster.name("latest"))
    cluster.asked.clear()
    responses = await asyncio.gather(*(mutate(webhook, cluster.name("1.4.2")) for _ in range(20)))

    assert {tuple(patched(each)) for each in responses} == {(f"{cluster.name('1.4.2')}@{RIGHT.digest}",)}
    assert sum("HEAD" in line for line in cluster.asked) == 1


def missing(cluster: Cluster, count: int = 30) -> dict[str, Any]:
    """Return a pod with tags that the registry does not have."""
    return pod(*(cluster.name(f"missing-{number}.") for number in range(count)))


def asked_about(cluster: Cluster) -> int:
    """Return how many of these tags the registry was asked about."""
    return sum(any(f"missing-{number}." in line for line in cluster.asked) for number in range(30))


async def test_a_user_with_many_tags_delays_only_the_own_namespace(cluster: Cluster) -> None:
    """An object with many tags of one namespace is still being resolved when one of another namespace is admitted."""
    webhook = cluster.webhook()
    crowded = asyncio.create_task(webhook.mutate(review(missing(cluster), namespace="attacker"), 60.0))
    await asyncio.sleep(0)
    raw = await webhook.mutate(review(pod(cluster.name("1.4.2")), namespace="shop"), 60.0)
    before = asked_about(cluster)
    await crowded

    assert patched(json.loads(raw)["response"]) == [f"{cluster.name('1.4.2')}@{RIGHT.digest}"]
    assert before <= 3
    assert asked_about(cluster) == 30


async def test_many_tags_are_no_way_around_a_proof(cluster: Cluster) -> None:
    """With fail_open too, an image that had no turn while the registry answered about others is refused, and not unchecked."""
    webhook = cluster.webhook(fail_open=True)
    crowded = asyncio.create_task(webhook.mutate(review(missing(cluster)), 60.0))
    await until(lambda: asked_about(cluster) >= 3, "the registry has answered about the first image")
    response = await mutate(webhook, cluster.name("other"), within_s=0.01)
    await crowded

    assert "too many other images are being resolved now" in message(response)


async def test_the_images_of_one_namespace_that_wait_are_limited(cluster: Cluster) -> None:
    """What is over the limit is refused at once, and the limit is free again when the others are done."""
    webhook = cluster.webhook()
    reviews = [
        webhook.mutate(review(pod(*(cluster.name(f"{part}-{number}") for number in range(450)))), 0.0)
        for part in ("a", "b", "c")
    ]
    responses = [json.loads(each)["response"] for each in await asyncio.gather(*reviews)]
    refused = [line for line in cluster.refused if "too many other images" in line]
    later = await until_answer(lambda: mutate(webhook, cluster.name("1.4.2")), "the limit is free again")

    assert not any(each["allowed"] for each in responses)
    assert len(refused) == 3 * 450 - MAX_WAITING_OF_ONE
    assert later["allowed"]


@pytest.mark.parametrize(
    "text",
    ["", "# none\n", "registry.example.com\n", "a b c\n", "registry.example.com key\n", "\xff"],
)
def test_a_file_of_trusted_ledgers_that_is_wrong_is_refused(text: str) -> None:
    """A line that is not a registry and a key, or a file that trusts nothing, is an error."""
    with pytest.raises(Invalid):
        read_trust(text.encode("latin-1"))


def test_a_ledger_is_trusted_once_and_observations_by_a_key_of_their_own() -> None:
    """The name with /observations is that of a mirror's log of observations; a name may be there once."""
    key = SigningKey("r.test", bytes(32)).verifier
    read = read_trust(f"# a comment\n\nr.test {key}\nr.test/observations {key}\n".encode())

    assert list(read) == ["r.test", "r.test/observations"]
    with pytest.raises(Invalid, match="a second time"):
        read_trust(f"r.test {key}\nr.test {key}\n".encode())
