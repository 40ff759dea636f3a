"""`boltseal digest`, `tags` and `check`, against a registry that really listens."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.cli import program
from tests.images import Document, image, push
from tests.servers import Server

SHOP = "shop/app"


@pytest.fixture
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No login of the person at this machine is used."""
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "nobody"))
    for variable in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(variable, raising=False)


pytestmark = [pytest.mark.usefixtures("_nobody"), pytest.mark.slow]


async def publish(server: Server, tag: str, document: Document, repository: str = SHOP) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await push(client, repository, tag, document)).status_code == 201


async def test_the_digest_of_a_tag(server: Server) -> None:
    """What `docker push` printed is what `digest` prints."""
    app = image("app")
    await publish(server, "1.4.2", app)
    told = program.run("digest", f"{server.address}/{SHOP}:1.4.2")
    as_json = program.run("digest", f"{server.address}/{SHOP}:1.4.2", "--json").json["results"][0]

    assert (told.code, told.out) == (0, app.digest + "\n")
    assert (as_json["digest"], as_json["size"], as_json["media_type"]) == (app.digest, len(app.raw), app.media_type)


async def test_a_missing_tag_is_an_exit_code(server: Server) -> None:
    """Not found does not hold; nobody listening could not be checked."""
    missing = program.run("digest", f"{server.address}/{SHOP}:9.9.9")
    nobody = program.run("digest", f"127.0.0.1:{servers.free_port()}/{SHOP}:1.4.2", "--json")

    assert missing.code == 1
    assert "has no manifest 9.9.9" in missing.err
    assert (nobody.code, nobody.json["outcome"]) == (3, "unknown")


async def test_every_tag_is_listed(server: Server) -> None:
    """One on each line."""
    for tag in ("1.4.1", "1.4.2", "latest"):
        await publish(server, tag, image(tag))
    told = program.run("tags", f"{server.address}/{SHOP}")

    assert (told.code, told.out.split()) == (0, ["1.4.1", "1.4.2", "latest"])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("localhost:5000", '"localhost:5000" is a registry; expected a repository, such as localhost:5000/shop/app'),
        ("a.example:443", '"a.example:443" is a registry; expected a repository, such as a.example:443/shop/app'),
        ("node:16", '"node:16" names one image; expected a repository, such as docker.io/library/node'),
    ],
)
def test_tags_of_what_is_no_repository_is_usage(typed: str, message: str) -> None:
    """A registry's address is not reported as an image of Docker Hub."""
    told = program.run("tags", typed)

    assert (told.code, told.err) == (2, f"boltseal: {message}\n")


async def test_a_free_name_may_be_published_and_a_taken_one_may_not(server: Server) -> None:
    """Free and this very digest are 0, another digest is 1."""
    app, other = image("app"), image("other")
    await publish(server, "1.4.2", app)
    ref = f"{server.address}/{SHOP}"
    codes = {
        "free": program.run("check", f"{ref}:1.4.3").code,
        "same": program.run("check", f"{ref}:1.4.2", "--digest", app.digest).code,
        "same in the reference": program.run("check", f"{ref}:1.4.2@{app.digest}").code,
        "taken": program.run("check", f"{ref}:1.4.2").code,
        "other": program.run("check", f"{ref}:1.4.2", "--digest", other.digest).code,
        "repository": program.run("check", ref).code,
    }

    assert codes == {"free": 0, "same": 0, "same in the reference": 0, "taken": 1, "other": 1, "repository": 2}


async def test_a_deleted_sealed_name_is_bound(server: Server) -> None:
    """A tombstone is no free name: only the same image may come back."""
    app = image("app")
    await publish(server, "1.4.2", app)
    ref = f"{server.address}/{SHOP}:1.4.2"
    program.run("tag", "unseal", ref, "--reason", "test", "--data", server.folder)
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await client.delete(f"/v2/{SHOP}/manifests/1.4.2")).status_code == 202
    told = program.run("check", ref, "--json")

    assert told.code == 1
    assert told.json["results"][0]["status"] == "deleted"
    assert told.json["results"][0]["digest"] == app.digest
    assert program.run("check", ref, "--digest", app.digest).code == 0


async def test_a_refused_copy_passes_the_registrys_detail_on(server: Server) -> None:
    """A pipeline reads the reason and a free tag from `--json`."""
    one, two = image("one"), image("two")
    await publish(server, "1.4.2", one)
    await publish(server, "2.0.0", two)
    source, target = (f"{server.address}/{SHOP}:{tag}" for tag in ("2.0.0", "1.4.2"))
    told = program.run("copy", source, target, "--force", "--json")
    rows = [*told.json["results"], *told.json["errors"]]
    (detail,) = [row["detail"] for row in rows if "detail" in row]

    assert told.code == 1
    assert (detail["reason"], detail["digest"], detail["pushed"]) == ("sealed", one.digest, two.digest)
    assert detail["free"] == ["1.4.3"]
