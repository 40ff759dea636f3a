"""A registry with something on every page, for tests that open the pages in a browser: tags, refusals, hosts, an upstream.

Every text that clients choose freely is HOSTILE.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.browser.chromium import apart
from tests.host_documents import release, report, running
from tests.images import Document, image, index, push, signature, signature_tag
from tests.logins import login, with_users
from tests.packaged_images import DPKG, dpkg, layer_of, sbom_of, spdx
from tests.page_images import BASE_LAYER, based_on, built_image
from tests.polling import until_answer
from tests.thread_server import boltseal_in_thread

HOSTILE = '<img src=x onerror="globalThis.attacked = 1">\'"--><script>globalThis.attacked = 1</script>'
UPSTREAM = "up.example"
CONFIG = """
[[rule]]
repository = "public/**"
tag = "latest"
mode = "floating"

[[auth.grant]]
users = ["boss"]
repository = "**"
actions = ["pull", "push", "delete", "admin", "report"]

[[auth.grant]]
users = ["ci"]
repository = "shop/**"
actions = ["pull", "push"]

[auth]
anonymous_pull = ["public/**"]

[[upstream]]
name = "{name}"
url = "{url}"
fresh = "1s"
[[upstream.rule]]
on_move = "hold"
"""
MUTABLE = '[[rule]]\nrepository = "**"\ntag = "**"\nmode = "floating"\n'
ONE, TWO = image("one", layer_count=2), image("two", architecture="arm64")
HELD = "team/app"
BASE = built_image({"ADD base": BASE_LAYER})
OLD = built_image(
    {"ADD base": BASE_LAYER, "COPY one /app": layer_of({"app/one": b"1", "app/" + "long/" * 40: b"l"})},
    labels={"version": "1", **based_on(f"{UPSTREAM}/team/app:1.4.2", BASE)},
    settings={"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "User": "app"},
)
NEW = built_image(
    {
        "ADD base": BASE_LAYER,
        f"RUN {HOSTILE} " + "long " * 60: layer_of({f"app/{HOSTILE}": b"", DPKG: dpkg(bash="5.2", openssl="3.0.1")}),
    },
    labels={HOSTILE: HOSTILE, **based_on(f"127.0.0.1/{HOSTILE}", BASE)},
    settings={"Env": [f"{HOSTILE}={HOSTILE}"], HOSTILE: {HOSTILE: HOSTILE}},
    annotations={HOSTILE: HOSTILE},
)
BOTH = index(NEW, built_image({"COPY arm /app": layer_of({"app/arm": b"a"})}, architecture="arm64"))
SBOM = sbom_of(OLD, spdx(left="1.3", **{HOSTILE: HOSTILE}))
HOST = "web-1.example"


@dataclass(frozen=True, slots=True)
class FilledRegistry:
    """A running registry. `paths`: its pages by their names."""

    url: str
    paths: dict[str, str]


PATHS = {
    "overview": "/ui/",
    "search": "/ui/search?q=1.4",
    "repositories": "/ui/repositories",
    "repository": "/ui/repository?repository=shop/app",
    "tag": "/ui/tag?repository=shop/app&tag=latest",
    "sealed-tag": "/ui/tag?repository=shop/app&tag=1.4.2",
    "image": f"/ui/image?repository=shop/unsafe&digest={BOTH.digest}&platform=linux/amd64",
    "old-image": f"/ui/image?repository=shop/unsafe&digest={OLD.digest}",
    "changes": f"/ui/changes?repository=shop/unsafe&old={OLD.digest}&new={BOTH.digest}&platform=linux/amd64&contents=yes",
    "packages": f"/ui/packages?repository=shop/unsafe&digest={OLD.digest}",
    "mirrored": f"/ui/repository?repository={UPSTREAM}/{HELD}",
    "mirrored-tag": f"/ui/tag?repository={UPSTREAM}/{HELD}&tag=1.4.2",
    "refused": "/ui/refused",
    "hosts": "/ui/hosts",
    "host": f"/ui/host?host={HOST}",
    "upstreams": "/ui/upstreams",
    "bases": "/ui/bases",
    "rules": "/ui/rules?ref=shop/app:1.4.2",
    "seal": "/ui/seal?repository=shop/strange&tag=latest",
    "unseal": "/ui/unseal?repository=shop/app&tag=1.4.2",
    "restore": f"/ui/restore?repository=shop/unsafe&tag=latest&to={OLD.digest}",
    "accept": f"/ui/accept?repository={UPSTREAM}/{HELD}&tag=1.4.2",
    "purge": f"/ui/purge?repository=shop/unsafe&reference={OLD.digest}",
    "entry": "/ui/entry?repository=shop/app&entry=4",
    "account": "/ui/account",
    "tokens": "/ui/tokens?all=yes",
    "create-token": "/ui/create-token",
    "revoke-token": "/ui/revoke-token?id=aaaaaaaaaa",
}


@contextmanager
def filled_registry(folder: Path) -> Iterator[FilledRegistry]:
    """Run a registry and its upstream."""
    with_users(folder / "data")
    with boltseal_in_thread(folder / "upstream", MUTABLE) as upstream:
        config = CONFIG.format(name=UPSTREAM, url=upstream.url)
        with boltseal_in_thread(folder / "data", config) as server:
            apart(_fill(server.url, upstream.url))
            yield FilledRegistry(server.url, PATHS)


async def _fill(url: str, upstream: str) -> None:
    async with httpx2.AsyncClient(base_url=url, auth=login("boss")) as client:
        await _push_tags(client)
        await _report(client)
        await _create_tokens(client)
        async with httpx2.AsyncClient(base_url=upstream) as theirs:
            await _hold(client, theirs)
        await _refuse(url)

        async def is_recorded() -> bool:
            refused = await client.get("/api/v1/refused/all")
            history = await client.get("/api/v1/history", params={"repository": "shop/app", "tag": "latest"})
            states = await client.get("/api/v1/held")
            return bool(refused.json()["items"] and history.json()["items"] and states.json()["items"])

        await until_answer(is_recorded, "refusals are recorded and entries signed")


async def _push_tags(client: httpx2.AsyncClient) -> None:
    for tag in ("1.4.0", "1.4.1", "1.4.2", "1.5.0-rc1", "2.0", "edge"):
        await _created(client, "shop/app", tag, image(f"shop {tag}", layer_count=3))
    for document in (ONE, TWO, index(ONE, TWO)):
        await _created(client, "shop/app", "latest", document)
    await _created(client, "shop/strange", "latest", image("strange", architecture=HOSTILE))
    for document in (OLD, BOTH):
        await _created(client, "shop/unsafe", "latest", document)
    await _created(client, "shop/unsafe", SBOM.digest, SBOM)
    await _created(client, "shop/unsafe", signature_tag(OLD), signature(OLD, HOSTILE))
    await _created(client, "public/tool", "1.0", ONE)
    await _created(client, "other/private", "1.4", TWO)
    sealed = {"repository": "shop/app", "tag": "latest", "reason": HOSTILE}
    answer = await client.post("/api/v1/seal", json=sealed)
    assert answer.status_code == 200, answer.text


async def _created(client: httpx2.AsyncClient, repository: str, tag: str, document: Document) -> None:
    answer = await push(client, repository, tag, document)
    assert answer.status_code == 201, answer.text


async def _report(client: httpx2.AsyncClient) -> None:
    """Report containers, and a release that failed; every free text is hostile."""
    names = {"name": HOSTILE, "project": HOSTILE, "service": HOSTILE, "reason": HOSTILE}
    known = running("localhost:5000/shop/app:latest", index(ONE, TWO).digest, **names)
    other = running(f"localhost:5000/shop/{HOSTILE}", ONE.digest, **names)
    deployed = release(HOSTILE, 7, known, end="failed", reason=HOSTILE, by=HOSTILE)
    for sent in (
        report(HOST, known, other),
        report("web-2.example", known, outcome="differs"),
        report(HOST, **deployed),
    ):
        answer = await client.post("/api/v1/reports", json=sent)
        assert answer.status_code == 200, answer.text


async def _create_tokens(client: httpx2.AsyncClient) -> None:
    for owner in ("boss", "ci"):
        wanted = {"owner": owner, "repositories": ["shop/" + "long-name/" * 20 + "**"], "actions": ["pull", "push"]}
        answer = await client.post("/api/v1/tokens", json={**wanted, "description": HOSTILE})
        assert answer.status_code == 200, answer.text


async def _hold(client: httpx2.AsyncClient, theirs: httpx2.AsyncClient) -> None:
    """Move a tag of the upstream, which the registry holds back."""
    for document in (ONE, TWO):
        await _created(theirs, HELD, "1.4.2", document)

        async def is_known(digest: str = document.digest) -> bool:
            await client.get(f"/v2/{UPSTREAM}/{HELD}/manifests/1.4.2")
            seen = await client.get("/api/v1/observations", params={"repository": f"{UPSTREAM}/{HELD}"})
            return any(each["digest"] == digest for each in seen.json()["items"])

        await until_answer(is_known, "the registry has asked the upstream")


async def _refuse(url: str) -> None:
    """Push another image to a sealed tag."""
    agent = HOSTILE
    async with httpx2.AsyncClient(base_url=url, auth=login("ci"), headers={"user-agent": agent}) as client:
        answer = await push(client, "shop/app", "1.4.2", TWO)
        assert answer.status_code == 409, answer.text
