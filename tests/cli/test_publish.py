"""`boltseal publish`: an image is pushed by digest, signed, and gets its tag last."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from tests.cli import program
from tests.images import image, meaning, push, put, signature_tag
from tests.polling import until_answer
from tests.servers import Server
from tests.signatures.signed_documents import signed
from tests.signatures.signers import Signer
from tests.thread_server import boltseal_in_thread

RELEASE, MALLORY = Signer.on_p256(), Signer.on_p256()
APP = image("to be published")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The file with the public key of RELEASE."""
    path = tmp_path / "release.pub"
    path.write_bytes(RELEASE.pem)
    return path


@pytest.fixture
def strict(tmp_path: Path, key: Path) -> Iterator[Server]:
    """A registry that gives tags of versions only to images that RELEASE has signed."""
    rules = f'[[rule]]\ntag = "[0-9]*"\nrequire = [{{ key = "{key}" }}]\n'
    with boltseal_in_thread(tmp_path / "strict", config=rules) as running:
        yield running


Pushed = Callable[[Server], Awaitable[httpx2.AsyncClient]]


@pytest.fixture
async def pushed() -> AsyncIterator[Pushed]:
    """Pushes the image under `latest`, which needs no signature, and returns a client of the registry."""
    async with AsyncExitStack() as clients:

        async def push_to(server: Server) -> httpx2.AsyncClient:
            made = httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=60)
            client = await clients.enter_async_context(made)
            await push(client, "shop/app", "latest", APP)
            return client

        yield push_to


def signs(tmp_path: Path, signer: Signer) -> str:
    """Return a command that pushes a signature of the image as cosign does, by the address that it is given."""
    evidence = signed(APP, signer)
    script = tmp_path / "sign.py"
    parts = {each.digest: each.data.decode() for each in evidence.blobs}
    script.write_text(
        "import http.client, sys\n"
        "address, _, rest = sys.argv[1].partition('/')\n"
        f"assert rest == 'shop/app@{APP.digest}', rest\n"
        "connection = http.client.HTTPConnection(address)\n"
        "def send(method, path, body, kind):\n"
        "    connection.request(method, path, body, {'content-type': kind})\n"
        "    answer = connection.getresponse()\n"
        "    answer.read()\n"
        "    assert answer.status == 201, answer.status\n"
        f"for digest, body in {parts!r}.items():\n"
        "    send('POST', '/v2/shop/app/blobs/uploads/?digest=' + digest, body.encode(), 'application/octet-stream')\n"
        f"send('PUT', '/v2/shop/app/manifests/{signature_tag(APP)}', {evidence.raw!r}, {evidence.media_type!r})\n"
        "print('signed it')\n"
    )
    return f"{sys.executable} {script} {{image}}"


async def call(*arguments: str | Path) -> program.Run:
    """Run `boltseal publish` in a process of its own: the commands that it starts print on its stderr."""
    return await asyncio.to_thread(program.run, "publish", *arguments)


async def test_an_image_is_signed_before_it_gets_its_tag(pushed: Pushed, strict: Server, tmp_path: Path) -> None:
    """One command pushes, signs and tags; a second run finds the tag and signs nothing."""
    client = await pushed(strict)
    source, sign = f"{strict.address}/shop/app:latest", signs(tmp_path, RELEASE)
    done = await call(source, "1.4.2", "--sign", sign)
    again = await call(source, "1.4.2", "--sign", "no-such-program", "--json")

    assert (done.code, done.out) == (0, f"{strict.address}/shop/app:1.4.2@{APP.digest}\n"), done.err
    assert await meaning(client, "shop/app", "1.4.2") == APP.digest
    assert (again.code, again.json["results"][0]["status"]) == (0, "unchanged")


async def test_a_refusal_says_what_is_missing_and_which_command_adds_it(pushed: Pushed, strict: Server) -> None:
    """Without a signature the image is pushed and gets no tag; the command has the registry's real address."""
    client = await pushed(strict)
    done = await call(f"{strict.address}/shop/app:latest", "1.4.2", "--json")
    shown = await call(f"{strict.address}/shop/app:latest", "1.4.2")
    (result,) = done.json["results"]

    assert (done.code, result["status"], result["detail"]["reason"]) == (1, "unsigned", "unsigned")
    assert result["missing"] == [f"a signature by release.pub (sha256:{RELEASE.key.fingerprint[:12]})"]
    assert result["commands"] == [f"cosign sign --key release.key {strict.address}/shop/app@{APP.digest}"]
    assert f"  run: {result['commands'][0]}\n" in shown.out
    assert await meaning(client, "shop/app", "1.4.2") is None


async def test_a_signature_by_another_key_gives_no_tag(pushed: Pushed, strict: Server, tmp_path: Path) -> None:
    """A command that signs with a wrong key leaves the tag free."""
    client = await pushed(strict)
    done = await call(f"{strict.address}/shop/app:latest", "1.4.2", "--sign", signs(tmp_path, MALLORY))

    assert done.code == 1
    assert "lacks a signature by release.pub" in done.out
    assert await meaning(client, "shop/app", "1.4.2") is None


async def test_it_waits_for_a_signature(pushed: Pushed, strict: Server) -> None:
    """With --wait another client may sign after the first refusal; the tag is given as soon as it has."""
    client = await pushed(strict)

    async def refused() -> bool:
        metrics = (await client.get("/metrics")).text
        return re.search(r'boltseal_refusals_total\{.*reason="unsigned".*\} [1-9]', metrics) is not None

    waiting = asyncio.create_task(call(f"{strict.address}/shop/app:latest", "1.4.2", "--wait", "2m"))
    await until_answer(refused, "the tag is refused once")
    await push(client, "shop/app", signature_tag(APP), signed(APP, RELEASE))
    done = await waiting

    assert done.code == 0, done.out
    assert f"waiting up to 2m for a signature of {strict.address}/shop/app@{APP.digest}" in done.err
    assert await meaning(client, "shop/app", "1.4.2") == APP.digest


async def test_it_waits_no_longer_than_it_may(pushed: Pushed, strict: Server) -> None:
    """When the time of --wait is over the tag is refused, and the exit code is 1."""
    await pushed(strict)
    done = await call(f"{strict.address}/shop/app:latest", "1.4.2", "--wait", "1s")

    assert done.code == 1
    assert "waiting up to 1s for a signature" in done.err
    assert "lacks a signature by release.pub" in done.out


async def test_a_registry_without_rules_gets_no_unsigned_tag(
    pushed: Pushed, server: Server, tmp_path: Path, key: Path
) -> None:
    """--signed-by verifies the signature here: before it is there the tag is not given, and what is signed is not signed again."""
    client = await pushed(server)
    source = f"{server.address}/shop/app:latest"
    before = await call(source, "1.4.2", "--signed-by", key, "--json")
    unsigned = await meaning(client, "shop/app", "1.4.2")
    await push(client, "shop/app", signature_tag(APP), signed(APP, RELEASE))
    after = await call(source, "1.4.2", "--signed-by", key, "--sign", "no-such-program")

    assert (before.code, before.json["results"][0]["status"]) == (1, "unsigned")
    assert before.json["results"][0]["commands"] == [
        f"cosign sign --key release.key {server.address}/shop/app@{APP.digest}"
    ]
    assert unsigned is None
    assert after.code == 0, after.err
    assert await meaning(client, "shop/app", "1.4.2") == APP.digest


async def test_a_command_that_fails_gives_no_tag(pushed: Pushed, server: Server) -> None:
    """The exit code is 3, and the error says that the image is pushed and the tag was not given."""
    client = await pushed(server)
    failed = await call(f"{server.address}/shop/app:latest", "1.4.2", "--sign", "false {image}")
    missing = await call(f"{server.address}/shop/app:latest", "1.4.2", "--sign", "no-such-program")

    assert (failed.code, missing.code) == (3, 3)
    assert "failed with exit code 1" in failed.err
    assert "is pushed, and the tag 1.4.2 was not given: run publish again" in failed.err
    assert '"no-such-program" can\'t be run' in missing.err
    assert await meaning(client, "shop/app", "1.4.2") is None


async def test_a_tag_with_another_image_is_not_given_again(pushed: Pushed, server: Server, tmp_path: Path) -> None:
    """A sealed tag is refused before anything is pushed or signed."""
    client = await pushed(server)
    await push(client, "shop/app", "1.4.2", image("another"))
    done = await call(f"{server.address}/shop/app:latest", "1.4.2", "--sign", f"touch {tmp_path}/signed")

    assert done.code == 1
    assert "resolves to" in done.err
    assert not (tmp_path / "signed").exists()


async def test_an_image_of_another_registry_arrives_with_its_signature(
    pushed: Pushed, server: Server, strict: Server, tmp_path: Path
) -> None:
    """What was signed at a staging registry is published without being signed again."""
    staging = await pushed(server)
    await push(staging, "shop/app", signature_tag(APP), signed(APP, RELEASE))
    target = f"{strict.address}/shop/app:1.4.2"
    without = await call(f"{server.address}/shop/app:latest", target, "--no-referrers")
    done = await call(f"{server.address}/shop/app:latest", target)

    assert (without.code, done.code) == (1, 0), done.out + done.err


async def test_a_tag_that_another_client_gave_first_is_no_error(pushed: Pushed, strict: Server) -> None:
    """If another client gives the tag to the same image first, the run reports that it has it."""
    client = await pushed(strict)
    await push(client, "shop/app", signature_tag(APP), signed(APP, RELEASE))
    await put(client, "shop/app", "1.4.2", APP)
    done = await call(f"{strict.address}/shop/app:latest", "1.4.2", "--json")

    assert (done.code, done.json["results"][0]["status"]) == (0, "unchanged")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("oci:folder:1", "1.4.2"), "is in no repository"),
        (("r.test/a:1", "r.test/b"), "has no tag"),
        (("r.test/a:1", "2", "--sign", "'"), "can't be split into words"),
        (("r.test/a:1", "2", "--sign", " "), "--sign is empty"),
        (("r.test/a:1", "2", "--wait", "2d"), "too long"),
    ],
)
def test_a_contradictory_publish_is_a_usage_error(arguments: tuple[str, ...], message: str) -> None:
    """Mistakes are found before any registry is contacted."""
    done = program.call("publish", *arguments)

    assert done.code == 2
    assert message in done.err.replace("\n", " ")


def test_a_private_key_is_refused(tmp_path: Path) -> None:
    """--signed-by takes public keys only."""
    path = tmp_path / "release.key"
    path.write_text("-----BEGIN PRIVATE KEY-----\n")
    done = program.call("publish", "r.test/a:1", "2", "--signed-by", path, "--json")

    assert done.code == 2
    assert "private key" in json.dumps(done.json["errors"])
