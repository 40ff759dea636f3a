"""`boltseal digest`, `tags` and `check`, with a listening registry."""

from __future__ import annotations

import httpx2
import pytest

from tests.cli import program
from tests.images import Document, image, push
from tests.ports import free_port
from tests.servers import Server

SHOP = "shop/app"


pytestmark = pytest.mark.slow


async def publish(server: Server, tag: str, document: Document, repository: str = SHOP) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await push(client, repository, tag, document)).status_code == 201


async def test_the_digest_of_a_tag(server: Server) -> None:
    """`digest` prints the digest that `docker push` printed."""
    app = image("app")
    await publish(server, "1.4.2", app)
    result = program.call("digest", f"{server.address}/{SHOP}:1.4.2")
    as_json = program.call("digest", f"{server.address}/{SHOP}:1.4.2", "--json").json["results"][0]

    assert (result.code, result.out) == (0, app.digest + "\n")
    assert (as_json["digest"], as_json["size"], as_json["media_type"]) == (app.digest, len(app.raw), app.media_type)


async def test_a_missing_tag_is_an_exit_code(server: Server) -> None:
    """A missing tag is exit code 1; an unreachable registry is exit code 3."""
    missing = program.call("digest", f"{server.address}/{SHOP}:9.9.9")
    unreachable = program.call("digest", f"127.0.0.1:{free_port()}/{SHOP}:1.4.2", "--json")

    assert missing.code == 1
    assert "has no manifest 9.9.9" in missing.err
    assert (unreachable.code, unreachable.json["outcome"]) == (3, "unknown")


async def test_every_tag_is_listed(server: Server) -> None:
    """`tags` prints one tag per line."""
    for tag in ("1.4.1", "1.4.2", "latest"):
        await publish(server, tag, image(tag))
    result = program.call("tags", f"{server.address}/{SHOP}")

    assert (result.code, result.out.split()) == (0, ["1.4.1", "1.4.2", "latest"])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("localhost:5000", '"localhost:5000" is a registry; expected a repository, such as localhost:5000/shop/app'),
        ("a.example:443", '"a.example:443" is a registry; expected a repository, such as a.example:443/shop/app'),
        ("node:16", '"node:16" names one image; expected a repository, such as docker.io/library/node'),
    ],
)
def test_tags_without_a_repository_is_a_usage_error(typed: str, message: str) -> None:
    """A registry's address is not treated as an image of Docker Hub."""
    result = program.call("tags", typed)

    assert (result.code, result.err) == (2, f"boltseal: {message}\n")


async def test_check_distinguishes_free_and_taken_tags(server: Server) -> None:
    """`check` returns 0 for a free tag and for the same digest, and 1 for another digest."""
    app, other = image("app"), image("other")
    await publish(server, "1.4.2", app)
    ref = f"{server.address}/{SHOP}"
    codes = {
        "free": program.call("check", f"{ref}:1.4.3").code,
        "same": program.call("check", f"{ref}:1.4.2", "--digest", app.digest).code,
        "same in the reference": program.call("check", f"{ref}:1.4.2@{app.digest}").code,
        "taken": program.call("check", f"{ref}:1.4.2").code,
        "other": program.call("check", f"{ref}:1.4.2", "--digest", other.digest).code,
        "repository": program.call("check", ref).code,
    }

    assert codes == {"free": 0, "same": 0, "same in the reference": 0, "taken": 1, "other": 1, "repository": 2}


async def test_a_deleted_sealed_tag_is_not_free(server: Server) -> None:
    """`check` treats a tombstone as taken: only the same image may return."""
    app = image("app")
    await publish(server, "1.4.2", app)
    ref = f"{server.address}/{SHOP}:1.4.2"
    program.call("tag", "unseal", ref, "--reason", "test", "--data", server.folder)
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await client.delete(f"/v2/{SHOP}/manifests/1.4.2")).status_code == 202
    result = program.call("check", ref, "--json")

    assert result.code == 1
    assert result.json["results"][0]["status"] == "deleted"
    assert result.json["results"][0]["digest"] == app.digest
    assert program.call("check", ref, "--digest", app.digest).code == 0


async def test_a_refused_copy_passes_the_registrys_detail_on(server: Server) -> None:
    """`copy --json` has the registry's reason and a free tag, for pipelines."""
    one, two = image("one"), image("two")
    await publish(server, "1.4.2", one)
    await publish(server, "2.0.0", two)
    source, target = (f"{server.address}/{SHOP}:{tag}" for tag in ("2.0.0", "1.4.2"))
    result = program.run("copy", source, target, "--force", "--json")
    rows = [*result.json["results"], *result.json["errors"]]
    (detail,) = [row["detail"] for row in rows if "detail" in row]

    assert result.code == 1
    assert (detail["reason"], detail["digest"], detail["pushed"]) == ("sealed", one.digest, two.digest)
    assert detail["free"] == ["1.4.3"]
