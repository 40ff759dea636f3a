"""The requests whose work is measured at several sizes, for every route and method of the registry."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx2

from tests.images import OCI_INDEX, OCI_MANIFEST, SBOM_TYPE, digest_of
from tests.scale.big_store import CONFIG, LAYER, PLATFORM_LIMIT, entry_of, manifest

REFERRED: Final = manifest("one")
REFERRED_DIGEST: Final = digest_of(REFERRED)


@dataclass(slots=True)
class Target:
    """A registry of some size, and numbers that were not used yet."""

    client: httpx2.AsyncClient
    size: int
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def send(self, method: str, path: str, *expected: int, **more: object) -> httpx2.Response:
        """Send a request, and check the status of its response."""
        response = await self.client.request(method, path, **more)  # type: ignore[arg-type]  # the options of httpx2

        assert response.status_code in expected, f"{method} {path}: {response.status_code} {response.text[:300]}"
        return response

    async def every_page(self, path: str) -> int:
        """Follow the links of a list to its end, and return the number of pages."""
        pages = 0
        following: str | None = path
        while following is not None:
            response = await self.send("GET", following, 200)
            link = response.headers.get("link")
            following = None if link is None else link.partition("<")[2].partition(">")[0]
            pages += 1
        return pages

    @property
    def middle(self) -> str:
        """The number of a thing in the middle of a list."""
        return f"{self.size // 2:06}"

    async def session(self) -> str:
        """Begin an upload and return its address."""
        response = await self.send("POST", "/v2/many/tags/blobs/uploads/", 202)
        location: str = response.headers["location"]
        return location


Act = Callable[[Target], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Case:
    """A request. `route`: its path template. `runs`: how often it can be repeated with the same work."""

    name: str
    method: str
    route: str
    act: Act
    runs: int = 3


def get(name: str, route: str, path: str | Callable[[Target], str], *expected: int, method: str = "GET") -> Case:
    """Return a case that reads."""

    async def act(target: Target) -> None:
        await target.send(method, path if isinstance(path, str) else path(target), *(expected or (200,)))

    return Case(name, method, route, act)


def pages(name: str, route: str, path: str) -> Case:
    """Return a case that reads a whole list page by page."""

    async def act(target: Target) -> None:
        assert await target.every_page(path)

    return Case(f"{name}, every page", "GET", route, act, runs=2)


def push(name: str, repository: str, tag: str, *expected: int, raw: bytes | None = None) -> Case:
    """Return a case that pushes a new image each time, to a tag that may have a new number."""

    async def act(target: Target) -> None:
        number = next(target.numbers)
        body = raw or manifest(f"pushed {number}")
        path = f"/v2/{repository}/manifests/{tag.format(number=number, middle=target.middle)}"
        await target.send("PUT", path, *expected, content=body, headers={"Content-Type": OCI_MANIFEST})

    return Case(name, "PUT", MANIFEST, act)


def delete(name: str, route: str, path: str | Callable[[Target], str], *expected: int, runs: int = 3) -> Case:
    """Return a case that deletes."""

    async def act(target: Target) -> None:
        await target.send("DELETE", path if isinstance(path, str) else path(target), *expected)

    return Case(name, "DELETE", route, act, runs)


MANIFEST: Final = "/v2/{name}/manifests/{reference}"
BLOB: Final = "/v2/{name}/blobs/{digest}"
UPLOADS: Final = "/v2/{name}/blobs/uploads/"
UPLOAD: Final = "/v2/{name}/blobs/uploads/{reference}"
TAGS: Final = "/v2/{name}/tags/list"
REFERRERS: Final = "/v2/{name}/referrers/{digest}"
CATALOG: Final = "/v2/_catalog"
TAG_HISTORY: Final = "/v2/{name}/_oci/tag-history/{tag}"
HISTORY: Final = "/v2/{name}/_boltseal/history/{tag}"
RECORDS: Final = "/v2/{name}/_boltseal/records"
OBSERVATIONS: Final = "/v2/{name}/_boltseal/observations/{tag}"
CHAINS: Final = "/v2/{name}/_boltseal/chains"
DISCOVER: Final = "/v2/{name}/_oci/ext/discover"


async def push_index(target: Target) -> None:
    """Push an index of as many platforms as the store has, under a new sealed tag."""
    children = [manifest(f"{number:06}") for number in range(min(target.size, PLATFORM_LIMIT))]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entry_of(raw) for raw in children],
        "annotations": {"number": str(next(target.numbers))},
    }
    path = f"/v2/many/platforms/manifests/2.{next(target.numbers)}"
    await target.send("PUT", path, 201, content=json.dumps(document), headers={"Content-Type": OCI_INDEX})


async def push_many_tags(target: Target) -> None:
    """Push an image under 64 new tags."""
    number = next(target.numbers)
    raw = manifest(f"pushed {number}")
    query = "&".join(f"tag=5.{number}.{each}" for each in range(64))
    path = f"/v2/many/tags/manifests/{digest_of(raw)}?{query}"
    await target.send("PUT", path, 201, content=raw, headers={"Content-Type": OCI_MANIFEST})


async def push_referrer(target: Target) -> None:
    raw = manifest(f"new referrer {next(target.numbers)}", subject=entry_of(REFERRED), artifactType=SBOM_TYPE)
    path = f"/v2/many/referrers/manifests/{digest_of(raw)}"
    await target.send("PUT", path, 201, content=raw, headers={"Content-Type": OCI_MANIFEST})


async def record(target: Target) -> None:
    body = {"kind": "built", "digest": digest_of(manifest("000000")), "tag": "latest"}
    await target.send("POST", "/v2/many/moves/_boltseal/records", 201, json=body)


async def accept(target: Target) -> None:
    await target.send("POST", "/api/v1/accept", 401, json={"repository": "many/tags", "tag": "1.0"})


async def upload_at_once(target: Target) -> None:
    data = b"uploaded %d" % next(target.numbers)
    path = f"/v2/many/tags/blobs/uploads/?digest={digest_of(data)}"
    await target.send("POST", path, 201, content=data)


async def upload(target: Target) -> None:
    data = b"chunked %d" % next(target.numbers)
    location = await target.session()
    await target.send("PATCH", location, 202, content=data)
    await target.send("GET", location, 204)
    await target.send("PUT", f"{location}?digest={digest_of(data)}", 201)


async def cancelled_upload(target: Target) -> None:
    await target.send("DELETE", await target.session(), 204)


def mount(name: str, query: str, *expected: int) -> Case:
    async def act(target: Target) -> None:
        place = f"mounted/{next(target.numbers)}"
        await target.send("POST", f"/v2/{place}/blobs/uploads/?mount={LAYER.digest}{query}", *expected)

    return Case(name, "POST", UPLOADS, act)


def _numbered(target: Target) -> str:
    return digest_of(manifest(target.middle))


def _in_blobs(target: Target) -> str:
    return digest_of(b"blob %d" % next(target.numbers))


def _referrer(target: Target) -> str:
    raw = manifest(f"referrer {next(target.numbers):06}", subject=entry_of(REFERRED), artifactType=SBOM_TYPE)
    return digest_of(raw)


READS: Final = [
    get("the API", "/v2/", "/v2/"),
    get("the catalog, one page of 100", CATALOG, lambda t: f"/v2/_catalog?n=100&last=r/{t.middle}"),
    get("the catalog, the first page", CATALOG, "/v2/_catalog"),
    pages("the catalog", CATALOG, "/v2/_catalog?n=100"),
    get("tags, the first page", TAGS, "/v2/many/tags/tags/list"),
    get("tags, one page of 100", TAGS, lambda t: f"/v2/many/tags/tags/list?n=100&last=1.{t.middle}"),
    pages("tags", TAGS, "/v2/many/tags/tags/list?n=100"),
    pages("tags of one manifest", TAGS, "/v2/many/sealed/tags/list?n=100"),
    *(
        get(f"{what} of {name}", MANIFEST, f"/v2/{name}/manifests/{tag}", method=method)
        for name, tag in (
            ("many/tags", "1.000100"),
            ("many/sealed", "1.000100"),
            ("many/mutable", "edge-000100"),
            ("many/referrers", "1.0"),
            ("many/platforms", "1.0"),
            ("many/moves", "latest"),
            ("r/000100", "1.0"),
        )
        for what, method in (("manifest", "GET"), ("head", "HEAD"))
    ),
    get("a manifest by digest", MANIFEST, lambda t: f"/v2/many/tags/manifests/{_numbered(t)}"),
    get("no manifest", MANIFEST, lambda t: f"/v2/many/tags/manifests/9.{t.middle}", 404),
    get("referrers, the first page", REFERRERS, f"/v2/many/referrers/referrers/{REFERRED_DIGEST}"),
    get("referrers, one page of 100", REFERRERS, f"/v2/many/referrers/referrers/{REFERRED_DIGEST}?n=100"),
    get(
        "referrers of a type", REFERRERS, f"/v2/many/referrers/referrers/{REFERRED_DIGEST}?artifactType={SBOM_TYPE}&n=9"
    ),
    get("referrers of no type", REFERRERS, f"/v2/many/referrers/referrers/{REFERRED_DIGEST}?artifactType=no/thing"),
    pages("referrers", REFERRERS, f"/v2/many/referrers/referrers/{REFERRED_DIGEST}?n=20"),
    get("a shared blob", BLOB, f"/v2/many/tags/blobs/{LAYER.digest}"),
    get("a blob", BLOB, f"/v2/many/blobs/blobs/{digest_of(b'blob 100')}"),
    get("the head of a blob", BLOB, f"/v2/many/blobs/blobs/{digest_of(b'blob 100')}", method="HEAD"),
    get("extensions", DISCOVER, "/v2/many/tags/_oci/ext/discover"),
    get("history of a tag, the first page", TAG_HISTORY, "/v2/many/moves/_oci/tag-history/latest"),
    pages("history of a tag", TAG_HISTORY, "/v2/many/moves/_oci/tag-history/latest?n=100"),
    get(
        "history of a tag, another digest",
        TAG_HISTORY,
        f"/v2/many/moves/_oci/tag-history/latest?digest={digest_of(b'')}",
    ),
    get("entries of a tag, the first page", HISTORY, "/v2/many/moves/_boltseal/history/latest"),
    pages("entries of a tag", HISTORY, "/v2/many/moves/_boltseal/history/latest?n=100"),
    pages("entries of a repository", HISTORY, "/v2/many/tags/_boltseal/history?n=100"),
    get("entries of a kind", HISTORY, "/v2/many/tags/_boltseal/history?kinds=tag.purged"),
    *(
        get(f"{what} of a small repository", route, f"/v2/r/000100/{path}")
        for what, route, path in (
            ("entries", HISTORY, "_boltseal/history"),
            ("entries of a tag", HISTORY, "_boltseal/history/1.0"),
            ("records", RECORDS, "_boltseal/records"),
            ("the tags", TAGS, "tags/list"),
            ("referrers", REFERRERS, f"referrers/{REFERRED_DIGEST}"),
        )
    ),
    get("records", RECORDS, "/v2/many/moves/_boltseal/records"),
    get("observations", OBSERVATIONS, "/v2/many/tags/_boltseal/observations", 404),
    get("layer chains", CHAINS, lambda t: f"/v2/many/tags/_boltseal/chains?digests={_numbered(t)},{REFERRED_DIGEST}"),
    get("the health", "/healthz", "/healthz"),
    get("the readiness", "/readyz", "/readyz"),
    get("the metrics", "/metrics", "/metrics"),
    get("page: overview", "/ui/", "/ui/"),
    get("page: repositories", "/ui/repositories", "/ui/repositories"),
    get("page: tags of a repository", "/ui/repository", "/ui/repository?repository=many/tags"),
    get("page: a tag", "/ui/tag", lambda target: f"/ui/tag?repository=many/tags&tag=1.{target.middle}"),
    get("page: an image", "/ui/image", lambda target: f"/ui/image?repository=many/tags&digest={_numbered(target)}"),
    get("page: search", "/ui/search", "/ui/search?q=1.1"),
    get("page: refused", "/ui/refused", "/ui/refused"),
    get("page: bases", "/ui/bases", "/ui/bases"),
    get("page: an entry", "/ui/entry", "/ui/entry?repository=many/tags&entry=100", 200, 404),
    get("page: rules", "/ui/rules", "/ui/rules?ref=many/tags:1.0"),
    get("a token", "/token", "/token?service=boltseal&scope=repository:many/tags:pull", 200, 400, 401),
    get("the checkpoint", "/ledger/", "/ledger/checkpoint"),
    get("the first tile", "/ledger/", "/ledger/tile/0/000"),
    get("the first entries", "/ledger/", "/ledger/tile/entries/000"),
    get("a receipt", "/ledger/", "/ledger/receipt/100"),
    get("a statement, of which there is no key", "/ledger/", "/ledger/attestation/100", 404),
    get("rotations", "/ledger/", "/ledger/rotations"),
    get("the checkpoint of observations", "/ledger/observations/", "/ledger/observations/checkpoint", 404),
]

WRITES: Final = [
    push("push of a sealed tag", "many/tags", "3.{number}", 201),
    push("push of a tag to a repository with many tags of one manifest", "many/sealed", "3.{number}", 201),
    push("push of one more tag of one manifest", "many/sealed", "4.{number}", 201, raw=REFERRED),
    push("push of one more mutable tag", "many/mutable", "edge-x{number}", 201, raw=REFERRED),
    push("move of a mutable tag", "many/moves", "latest", 201),
    push("refused push", "many/tags", "1.{middle}", 409),
    push("refused push where many tags are", "many/sealed", "1.{middle}", 409),
    push("push to a new repository", "new/r{number}", "1.0", 400),
    Case("push of 64 tags", "PUT", MANIFEST, push_many_tags),
    Case("push of an index", "PUT", MANIFEST, push_index, runs=1),
    Case("push of a referrer", "PUT", MANIFEST, push_referrer),
    Case("a record of a tag with many moves", "POST", RECORDS, record),
    Case("accept", "POST", "/api/v1/", accept),
    Case("upload at once", "POST", UPLOADS, upload_at_once),
    Case("upload in chunks", "PATCH", UPLOAD, upload),
    Case("status of an upload", "GET", UPLOAD, upload),
    Case("end of an upload", "PUT", UPLOAD, upload),
    Case("cancelled upload", "DELETE", UPLOAD, cancelled_upload),
    mount("mount from a repository", "&from=many/tags", 201),
    mount("mount from any repository", "", 201),
    mount("mount from no repository", "&from=no/thing", 202),
]

DELETES: Final = [
    delete("refused delete of a sealed tag", MANIFEST, "/v2/many/tags/manifests/1.000100", 405),
    delete("refused delete of a manifest of many tags", MANIFEST, f"/v2/many/sealed/manifests/{REFERRED_DIGEST}", 405),
    delete(
        "refused delete of a platform",
        MANIFEST,
        lambda t: f"/v2/many/platforms/manifests/{digest_of(manifest('000001'))}",
        405,
    ),
    delete("refused delete of a shared layer", BLOB, f"/v2/many/tags/blobs/{LAYER.digest}", 405),
    delete("refused delete of a shared config", BLOB, f"/v2/many/sealed/blobs/{CONFIG.digest}", 405),
    delete(
        "delete of a mutable tag",
        MANIFEST,
        lambda t: f"/v2/many/mutable/manifests/edge-{next(t.numbers) % t.size:06}",
        202,
    ),
    delete("refused delete of a referrer", MANIFEST, lambda t: f"/v2/many/referrers/manifests/{_referrer(t)}", 405),
    delete("delete of a blob", BLOB, lambda t: f"/v2/many/blobs/blobs/{_in_blobs(t)}", 202),
    delete(
        "delete of a manifest of many mutable tags",
        MANIFEST,
        f"/v2/many/mutable-0/manifests/{REFERRED_DIGEST}",
        202,
        runs=1,
    ),
]

CASES: Final[Sequence[Case]] = [*READS, *WRITES, *DELETES]
"""The cases of a registry without users."""
