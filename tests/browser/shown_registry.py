"""A small registry as a team has it, for the screenshots of its pages: versions, a moved tag, a refusal, hosts, bases, an upstream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.browser.chromium import apart
from tests.browser.filled_registry import CONFIG, MUTABLE, FilledRegistry
from tests.host_documents import release, report, running
from tests.images import Document, artifact, index, push
from tests.logins import login, with_users
from tests.packaged_images import DPKG, dpkg, layer_of, sbom_of, spdx
from tests.page_images import BASE_LAYER, based_on, built_image
from tests.polling import until_answer
from tests.thread_server import boltseal_in_thread

UPSTREAM = "docker.io"
MIRRORED = f"{UPSTREAM}/library/debian"
OS = built_image({"ADD rootfs.tar.gz /": BASE_LAYER})
NEWER_OS = built_image(
    {"ADD rootfs.tar.gz /": layer_of({"etc/base": b"newer", DPKG: dpkg(bash="5.2", openssl="3.0.15")})}
)
NODE = layer_of({"usr/bin/nodejs": b"node" * 900})
RUNTIME = built_image(
    {"ADD rootfs.tar.gz /": BASE_LAYER, "RUN apt-get install nodejs": NODE}, labels=based_on(f"{MIRRORED}:12", OS)
)
NEWER_RUNTIME = built_image(
    {"ADD rootfs.tar.gz /": BASE_LAYER, "RUN apt-get install nodejs openssl": NODE},
    labels=based_on(f"{MIRRORED}:12", OS),
)
SIGNATURE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
HOSTS = ("web-1.example", "web-2.example")


class ShownImages:
    """The images. `registry`: host and port of the registry, which the names of bases have."""

    def __init__(self, registry: str) -> None:
        self._base = f"{registry}/base/node:edge"
        versions = ("1.3.9", "1.4.0", "1.4.1")
        self.versions = {each: index(self._app(each), self._app(each, architecture="arm64")) for each in versions}
        self.newest = index(self._app("1.4.2", NEWER_RUNTIME), self._app("1.4.2", NEWER_RUNTIME, "arm64"))
        self.other = self._app("1.4.2 once more")
        self.moved = [self._app(f"build-{number}", NEWER_RUNTIME) for number in (1, 2, 3)]
        self.sbom = sbom_of(self.moved[-1], spdx(express="4.21.1", lodash="4.17.21"))

    @property
    def paths(self) -> dict[str, str]:
        """The addresses of the pages."""
        first, second, last = (each.digest for each in self.moved)
        return {name: path.format(first=first, second=second, last=last) for name, path in PATHS.items()}

    def _app(self, version: str, base: Document = RUNTIME, architecture: str = "amd64") -> Document:
        app = {
            "app/shop.js": version.encode(),
            f"app/{version}.txt": b"",
            DPKG: dpkg(bash="5.1", openssl=f"3.0.{version[-1]}"),
        }
        return built_image(
            {"ADD rootfs.tar.gz /": BASE_LAYER, "RUN apt-get install nodejs": NODE, "COPY . /app": layer_of(app)},
            labels={"org.opencontainers.image.version": version, **based_on(self._base, base)},
            settings={"Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "PORT=8080"], "User": "app"},
            architecture=architecture,
        )


PATHS = {
    "overview": "/ui/",
    "search": "/ui/search?q=1.4",
    "repository": "/ui/repository?repository=shop/app",
    "tag": "/ui/tag?repository=shop/app&tag=edge",
    "image": "/ui/image?repository=shop/app&digest={last}",
    "changes": "/ui/changes?repository=shop/app&old={first}&new={last}&contents=yes",
    "packages": "/ui/packages?repository=shop/app&digest={last}",
    "refused": "/ui/refused",
    "hosts": "/ui/hosts",
    "host": f"/ui/host?host={HOSTS[0]}",
    "upstreams": "/ui/upstreams",
    "bases": "/ui/bases",
    "rules": "/ui/rules?ref=shop/app:1.4.2",
    "restore": "/ui/restore?repository=shop/app&tag=edge&to={second}",
    "account": "/ui/account",
    "tokens": "/ui/tokens?all=yes",
    "create-token": "/ui/create-token",
}
"""The pages by the names of their pictures, with the digests of `ShownImages.moved`."""


@contextmanager
def shown_registry(folder: Path) -> Iterator[FilledRegistry]:
    """Run the registry and its upstream."""
    with_users(folder / "data")
    with boltseal_in_thread(folder / "upstream", MUTABLE) as upstream:
        config = CONFIG.format(name=UPSTREAM, url=upstream.url)
        with boltseal_in_thread(folder / "data", config) as server:
            images = ShownImages(server.address)
            apart(_fill(server.url, upstream.url, images))
            yield FilledRegistry(server.url, images.paths)


async def _fill(url: str, upstream: str, images: ShownImages) -> None:
    program = {"user-agent": "docker/27.3"}
    async with (
        httpx2.AsyncClient(base_url=url, auth=login("boss")) as client,
        httpx2.AsyncClient(base_url=upstream) as theirs,
        httpx2.AsyncClient(base_url=url, auth=login("ci"), headers=program) as pipeline,
    ):
        await _hold(client, theirs)
        await _created(client, "base/node", "edge", RUNTIME)
        for version, document in images.versions.items():
            await _created(pipeline, "shop/app", version, document)
        await _created(client, "base/node", "edge", NEWER_RUNTIME)
        for tag, document in (("1.4.2", images.newest), *(("edge", each) for each in images.moved)):
            await _created(pipeline, "shop/app", tag, document)
        for attached in (artifact("signed", subject=images.newest, artifact_type=SIGNATURE_TYPE), images.sbom):
            await _created(pipeline, "shop/app", attached.digest, attached)
        refused = await push(pipeline, "shop/app", "1.4.2", images.other)
        assert refused.status_code == 409, refused.text
        await _report(client, images)
        await _create_tokens(client, pipeline)

        async def is_recorded() -> bool:
            refusals = await client.get("/api/v1/refused/all")
            logs = await client.get("/api/v1/ledger")
            held = await client.get("/api/v1/held")
            signed = all(each["size"] == each["signed"] for each in logs.json()["items"])
            return bool(refusals.json()["items"] and held.json()["items"] and signed)

        await until_answer(is_recorded, "refusals are recorded and entries signed")


async def _created(client: httpx2.AsyncClient, repository: str, tag: str, document: Document) -> None:
    answer = await push(client, repository, tag, document)
    assert answer.status_code == 201, answer.text


async def _hold(client: httpx2.AsyncClient, theirs: httpx2.AsyncClient) -> None:
    """Move a tag of the upstream, which the registry holds back."""
    for document in (OS, NEWER_OS):
        await _created(theirs, "library/debian", "12", document)

        async def is_known(digest: str = document.digest) -> bool:
            await client.get(f"/v2/{MIRRORED}/manifests/12")
            seen = await client.get("/api/v1/observations", params={"repository": MIRRORED})
            return any(each["digest"] == digest for each in seen.json()["items"])

        await until_answer(is_known, "the registry has asked the upstream")


async def _create_tokens(client: httpx2.AsyncClient, pipeline: httpx2.AsyncClient) -> None:
    pushes = {"repositories": ["shop/**"], "actions": ["pull", "push"], "description": "pipeline of shop"}
    reports = {"repositories": ["**"], "actions": ["report"], "description": "reports of web-1.example", "life": "5d"}
    for login_of, wanted in ((pipeline, pushes), (client, reports)):
        answer = await login_of.post("/api/v1/tokens", json=wanted)
        assert answer.status_code == 200, answer.text


async def _report(client: httpx2.AsyncClient, images: ShownImages) -> None:
    """Report containers of two hosts, a release that ended well and one that failed."""
    names = {"name": "shop-web-1", "project": "shop", "service": "web"}
    for host, version, end in zip(HOSTS, ("1.4.1", "1.4.0"), ("healthy", "failed"), strict=True):
        known = running(f"registry.example/shop/app:{version}", images.versions[version].digest, **names)
        deployed = release("shop", 7, known, end=end, reason="" if end == "healthy" else "health checks failed")
        for sent in (report(host, known), report(host, **deployed)):
            answer = await client.post("/api/v1/reports", json=sent)
            assert answer.status_code == 200, answer.text
