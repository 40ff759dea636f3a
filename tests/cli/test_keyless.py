"""`--signed-by identity=...`: `inspect` and `publish` verify the signatures of identities on the user's machine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli import program
from tests.images import image, meaning, push
from tests.servers import Server
from tests.signatures.notation_certificates import root
from tests.signatures.signed_documents import keyless
from tests.signatures.sigstore_services import IDENTITY, ISSUER, Authority, Signing

AUTHORITY = Authority()
APP = image("signed by an identity")


@pytest.fixture
def signer(tmp_path: Path) -> str:
    """The value of --signed-by for every tag of the release workflow."""
    (tmp_path / "root.json").write_bytes(AUTHORITY.trusted_root())
    return f"identity={IDENTITY.rpartition('/')[0]}/*,issuer={ISSUER},trusted_root={tmp_path / 'root.json'}"


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a registry that has the image under `latest`."""
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as made:
        await push(made, "shop/app", "latest", APP)
        yield made


def verdicts(document: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Return verdict and signer of each signature, by the digest of its manifest."""
    (result,) = document["results"]
    return {each["digest"]: (each["status"], each["signer"]) for each in result["evidence"]}


async def test_inspect_shows_who_signed(client: httpx2.AsyncClient, server: Server, signer: str) -> None:
    """The identity's signature is verified, and one of another identity is not; the exit code says what is missing."""
    forged = keyless(APP, AUTHORITY, Signing(identity="mallory@evil.example"))
    await push(client, "shop/app", forged.digest, forged)
    arguments = ("inspect", f"{server.address}/shop/app:latest", "--signed-by", signer)
    before = await asyncio.to_thread(program.call, *arguments, "--json")
    good = keyless(APP, AUTHORITY)
    await push(client, "shop/app", good.digest, good)
    after = await asyncio.to_thread(program.call, *arguments, "--json")
    who = f"{IDENTITY.rpartition('/')[0]}/* of {ISSUER}"
    (result,) = before.json["results"]

    assert (before.code, result["missing"]) == (1, [f"a signature by {who}"])
    assert "mallory@evil.example" in result["evidence"][0]["reason"]
    assert after.code == 0, after.err
    assert verdicts(after.json) == {
        good.digest: ("verified", f"{IDENTITY} of {ISSUER}"),
        forged.digest: ("not-verified", None),
    }


async def test_publish_gives_the_tag_to_an_image_that_the_identity_signed(
    client: httpx2.AsyncClient, server: Server, signer: str
) -> None:
    """Without the signature nothing is tagged, and the command that adds it is printed."""
    arguments = ("publish", f"{server.address}/shop/app:latest", "1.4.2", "--signed-by", signer)
    before = await asyncio.to_thread(program.run, *arguments)
    missing = await meaning(client, "shop/app", "1.4.2")
    good = keyless(APP, AUTHORITY)
    await push(client, "shop/app", good.digest, good)
    after = await asyncio.to_thread(program.run, *arguments)

    assert (before.code, missing) == (1, None)
    assert f"run: cosign sign --new-bundle-format {server.address}/shop/app@{APP.digest}" in before.out
    assert after.code == 0, after.err
    assert await meaning(client, "shop/app", "1.4.2") == APP.digest


MISTAKES = {
    "no root": ("identity=a@acme.example,issuer=https://accounts.example.com", "trusted_root is missing"),
    "twice": ("identity=a,identity=b,issuer=https://accounts.example.com,trusted_root=ROOT", "identity is there twice"),
    "no file": ("identity=a,issuer=https://accounts.example.com,trusted_root=gone.json", '"gone.json" can\'t be read'),
    "no trusted root": ("identity=a,issuer=https://accounts.example.com,trusted_root=KEY", "is not JSON"),
    "no issuer": ("identity=a,issuer=accounts,trusted_root=ROOT", "begins with https://"),
    "everyone": ("trusted_root=ROOT,issuer=https://accounts.example.com,identity=*", "everyone that the issuer knows"),
}


@pytest.mark.parametrize(("value", "why"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_signer_that_is_none_is_a_usage_error(tmp_path: Path, value: str, why: str) -> None:
    """A mistake in the option is found before a registry is asked."""
    (tmp_path / "root.json").write_bytes(AUTHORITY.trusted_root())
    (tmp_path / "key").write_bytes(b"no root")
    value = value.replace("ROOT", str(tmp_path / "root.json")).replace("KEY", str(tmp_path / "key"))
    done = program.call("inspect", "localhost:1/shop/app:1", "--signed-by", value)

    assert done.code == 2
    assert why in done.err


def without_the_extra(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run boltseal in a Python that does not find the libraries of the extra."""
    code = "import sys; sys.modules['sigstore'] = sys.modules['rfc3161_client'] = None; from boltseal.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def of_rule(require: str) -> str:
    return f"[[rule]]\nrequire = [{require}]\n"


def of_upstream(require: str) -> str:
    return f'[[upstream]]\nname = "docker.io"\n[[upstream.rule]]\nrequire = [{require}]\n'


@pytest.mark.parametrize("table", [of_rule, of_upstream], ids=["rule", "upstream"])
@pytest.mark.parametrize("command", [("serve", "--listen", "127.0.0.1:5999"), ("admin", "rules")])
def test_without_the_extra_a_server_does_not_start(
    tmp_path: Path, table: Callable[[str], str], command: Sequence[str]
) -> None:
    """One line says what to install, instead of a 503 for every push."""
    (tmp_path / "root.json").write_bytes(AUTHORITY.trusted_root())
    require = f'{{ identity = "a@acme.example", issuer = "{ISSUER}", trusted_root = "{tmp_path}/root.json" }}'
    config = tmp_path / "boltseal.toml"
    config.write_text(f'[server]\ndata = "{tmp_path}/data"\n{table(require)}')
    done = without_the_extra(*command, "--config", str(config))
    errors = [line for line in done.stderr.splitlines() if "sigstore" in line]

    assert done.returncode == 2
    assert len(errors) == 1
    assert "need the extra sigstore: pip install 'boltseal[sigstore]'" in errors[0]


def test_without_the_extra_time_stamps_are_refused(tmp_path: Path) -> None:
    """Time stamps could not be checked, and an expired certificate alone is no evidence."""
    (tmp_path / "ca.pem").write_bytes(root().pem)
    value = f"ca={tmp_path}/ca.pem,tsa={tmp_path}/ca.pem,subject=*"
    done = without_the_extra("inspect", "localhost:1/shop/app:1", "--signed-by", value)

    assert done.returncode == 2
    assert "time stamps (tsa) need the extra sigstore: pip install 'boltseal[sigstore]'" in done.stderr


def test_without_the_extra_an_identity_is_refused(signer: str) -> None:
    """A client says it as well, before it asks a registry."""
    done = without_the_extra("inspect", "localhost:1/shop/app:1", "--signed-by", signer)

    assert done.returncode == 2
    assert "pip install 'boltseal[sigstore]'" in done.stderr
