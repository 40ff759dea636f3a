"""An in-memory engine behind a real socket: the part of Docker's API that boltseal uses, also with wrong answers; it
counts requests.

`containers` and `images` have documents as Docker 26 writes them. `wrong[path]`, a path without the API version, is
answered instead: these bytes, and nothing more if the socket is to be closed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from boltseal.engines.address import EngineAddress
from tests.fakes.listening import answering, listening
from tests.images import digest_of

SNAPSHOTTER = [["driver-type", "io.containerd.snapshotter.v1"]]


@dataclass(frozen=True, slots=True)
class Wrong:
    """An answer in place of the right one. `endless`: the body is repeated for as long as the client reads."""

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    endless: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hang:
    """A request that has arrived and is answered on release. `done`: its effect happens before."""

    done: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class FakeEngine:
    """`images`: by ID; `containers`: by ID. `asked`: method and path of each request, without the version.

    `logs`: the bytes of a container's log. `pullable`: the image that a pull of this name adds. `hangs`: requests
    that wait, each once. `loses`: paths of `wrong` at which the request's effect happens first. `outcomes`: the state of a
    started container, by the ID of its image. `started`: the names of started containers.
    """

    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    api: str = "1.45"
    podman: bool = False
    driver_status: list[list[str]] = field(default_factory=list)
    architecture: str = "amd64"
    root: str = "/var/lib/docker"
    asked: list[str] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    loaded: list[bytes] = field(default_factory=list)
    saved: bytes = b"archive"
    wrong: dict[str, Wrong] = field(default_factory=dict)
    progress: list[dict[str, Any]] = field(default_factory=list)
    pullable: dict[str, dict[str, Any]] = field(default_factory=dict)
    hangs: dict[str, Hang] = field(default_factory=dict)
    loses: set[str] = field(default_factory=set)
    logs: dict[str, bytes] = field(default_factory=dict)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    created: int = 0

    def image(self, words: str, *names: str, pulled: tuple[str, ...] = (), **more: Any) -> str:
        """Add an image whose ID is derived from some words. `names`: RepoTags; `pulled`: RepoDigests."""
        id_ = digest_of(words.encode())
        document = {"Id": id_, "RepoTags": list(names), "RepoDigests": list(pulled), "Created": "2026-01-02T03:04:05Z"}
        self.images[id_] = document | {"Os": "linux", "Architecture": "amd64", "Config": {"Labels": None}} | more
        return id_

    def to_pull(self, words: str, name: str, **more: Any) -> str:
        """Add an image that appears once this name (by digest) is pulled; return its ID."""
        id_ = self.image(words, pulled=(name,), **more)
        self.pullable[name] = self.images.pop(id_)
        return id_

    def container(self, name: str, started_as: str, image: str, **more: Any) -> str:
        """Add a running container of the image with this ID."""
        id_ = digest_of(f"container {name}".encode()).removeprefix("sha256:")
        self.containers[id_] = {
            "Id": id_,
            "Name": f"/{name}",
            "Image": image,
            "Created": "2026-11-20T08:00:00.123456789Z",
            "State": {"Status": "running", "Running": True, "StartedAt": "2026-11-21T09:00:00.5Z"},
            "Config": {"Image": started_as, "Labels": more.pop("labels", {})},
        } | more
        return id_

    @asynccontextmanager
    async def listening(self, folder: Path) -> AsyncIterator[EngineAddress]:
        """Answer on a socket in `folder`."""
        path = folder / "engine.sock"
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
            try:
                async with listening(answering(self._answer), bound):
                    yield EngineAddress.parse(f"unix://{path}")
            finally:
                path.unlink(missing_ok=True)

    @contextmanager
    def in_thread(self, folder: Path) -> Iterator[EngineAddress]:
        """Answer on a socket in `folder` from another thread, for a test that blocks while it runs a command."""
        ready, ending = threading.Event(), threading.Event()

        async def answer() -> None:
            async with self.listening(folder):
                ready.set()
                await asyncio.to_thread(ending.wait)

        thread = threading.Thread(target=asyncio.run, args=(answer(),))
        thread.start()
        try:
            ready.wait()
            yield EngineAddress.parse(f"unix://{folder}/engine.sock")
        finally:
            ending.set()
            thread.join()

    @asynccontextmanager
    async def listening_on_tcp(
        self, certificates: Path | None = None, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[EngineAddress]:
        """Answer on a port. `tls`: the server's context; `certificates`: the client's certificates in the address."""
        with socket.create_server(("127.0.0.1", 0)) as bound:
            port = bound.getsockname()[1]
            async with listening(answering(self._answer), bound, tls):
                yield EngineAddress.parse(f"tcp://127.0.0.1:{port}", certificates)

    async def _answer(self, request: Request) -> Response:
        path = str(request.scope["path"]).removeprefix(f"/v{self.api}").removeprefix("/")
        self.asked.append(f"{request.method} {path}")
        self.queries.append(dict(request.query_params))
        self.headers.append(request.headers)
        request_line = f"{request.method} {path}"
        if hang := self.hangs.pop(request_line, None):
            if hang.done:
                await self._information(request, path.split("/"))
            hang.arrived.set()
            await hang.go.wait()
        if path in self.wrong:
            if path in self.loses:
                await self._information(request, path.split("/"))
            return _wrongly(self.wrong[path])
        answer = await self._information(request, path.split("/"))
        if answer is None:
            return JSONResponse({"message": f"No such image or container: {path}"}, status_code=404)
        return answer

    async def _information(self, request: Request, parts: list[str]) -> Response | None:
        match request.method, parts:
            case "GET", ["version"]:
                name = "Podman Engine" if self.podman else "Engine"
                fields = {"Version": "26.1.5", "ApiVersion": self.api, "Os": "linux", "Arch": self.architecture}
                return JSONResponse(fields | {"Components": [{"Name": name}]})
            case "GET", ["info"]:
                return JSONResponse(
                    {"DriverStatus": self.driver_status, "DockerRootDir": self.root, "ID": "fake", "Name": "fake"}
                )
            case _, ["containers" | "networks", *_]:
                return await self._about_container(request, parts)
            case "GET", ["volumes"]:
                return JSONResponse({"Volumes": []})
            case "GET", ["images", "json"]:
                return JSONResponse([self._listed(each) for each in self.images.values()])
            case "POST", ["images", "create" | "load"]:
                self.loaded.append(await request.body())
                self._pull(request.query_params.get("fromImage", ""))
                return Response(b"\r\n".join(json.dumps(each).encode() for each in self.progress))
            case method, ["images", *name, what] if method != "DELETE":
                return self._about_image("/".join(name), what, request)
            case "DELETE", ["images", *name]:
                return self._untag("/".join(name))
            case _:
                return None

    async def _about_container(self, request: Request, parts: list[str]) -> Response | None:
        match request.method, parts:
            case "GET", ["containers", "json"]:
                wanted = json.loads(request.query_params.get("filters", "{}")).get("label", [])
                return JSONResponse([{"Id": id_} for id_, each in self.containers.items() if _labelled(each, wanted)])
            case "GET", ["containers", id_, "json"]:
                return _document(self.containers.get(id_))
            case "GET", ["containers", id_, "logs"] if id_ in self.containers:
                return Response(self.logs.get(id_, b""))
            case "GET", ["networks", name]:
                return _document(self.networks.get(name))
            case "POST", ["networks", "create"]:
                network = await request.json()
                self.networks[network["Name"]] = network
                return JSONResponse({"Id": network["Name"]}, status_code=201)
            case _, ["containers", *rest]:
                return await self._change_container(request, rest)
            case _:
                return None

    async def _change_container(self, request: Request, rest: list[str]) -> Response | None:
        match request.method, rest:
            case "POST", ["create"]:
                body = await request.json()
                image = self.find(body["Image"])
                name = request.query_params["name"]
                if image is None:
                    return None
                if any(each["Name"] == f"/{name}" for each in self.containers.values()):
                    return JSONResponse({"message": f"the name {name} is already in use"}, status_code=409)
                id_ = self.create(name, body["Image"], image["Id"], body)
                return JSONResponse({"Id": id_}, status_code=201)
            case "POST", [id_, "start"] if id_ in self.containers:
                self.start(id_)
            case "POST", [id_, "stop"] if id_ in self.containers:
                self.stop(id_)
            case "DELETE", [id_] if id_ in self.containers:
                del self.containers[id_]
            case _:
                return None
        return Response(status_code=204)

    def create(self, name: str, started_as: str, image: str, body: Mapping[str, Any]) -> str:
        """Create a container that does not run. `body`: its configuration, as in a request."""
        self.created += 1
        id_ = digest_of(f"container {name} {self.created}".encode()).removeprefix("sha256:")
        host = body.get("HostConfig") or {}
        config = {key: each for key, each in body.items() if key not in ("HostConfig", "NetworkingConfig")}
        self.containers[id_] = {
            "Id": id_,
            "Name": f"/{name}",
            "Image": image,
            "Created": "2026-11-20T08:00:00.123456789Z",
            "State": {"Status": "created"},
            "Config": config | {"Image": started_as},
            "HostConfig": host,
        }
        return id_

    def start(self, id_: str) -> None:
        """Start a container, whose state `outcomes` gives by the ID of its image; by default it runs."""
        container = self.containers[id_]
        if container["State"]["Status"] != "running":
            self.started.append(container["Name"])
            container["State"] = {"StartedAt": "2026-11-21T09:00:00.5Z"} | self.outcomes.get(
                container["Image"], {"Status": "running"}
            )

    def stop(self, id_: str) -> None:
        """Stop a container."""
        state = self.containers[id_]["State"]
        if state["Status"] == "running":
            self.containers[id_]["State"] = {"Status": "exited", "ExitCode": 137, "StartedAt": state["StartedAt"]}

    def _about_image(self, name: str, what: str, request: Request) -> Response | None:
        found = self.find(name)
        if found is None:
            return None
        if what == "tag":
            new = f"{request.query_params['repo']}:{request.query_params['tag']}"
            for each in self.images.values():  # the image that had the name loses it, and is kept
                each["RepoTags"] = [name for name in each["RepoTags"] if name != new]
            found["RepoTags"].append(new)
            return Response(status_code=201)
        if what == "history":
            return JSONResponse(found.get("History", []))
        return Response(self.saved) if what == "get" else _document(found)

    def find(self, name: str) -> dict[str, Any] | None:
        """Return an image by its ID or a name."""
        named = (each for each in self.images.values() if name in [*each["RepoTags"], *each["RepoDigests"]])
        return self.images.get(name) or next(named, None)

    def _pull(self, name: str) -> None:
        """Pull an image; a present one only gets one more digest."""
        new = self.pullable.get(name)
        if new is not None:
            there = self.images.setdefault(new["Id"], new)
            there["RepoDigests"] = list(dict.fromkeys([*there["RepoDigests"], *new["RepoDigests"]]))

    def _untag(self, name: str) -> Response | None:
        """Remove a tag; Docker removes an image with its last tag, Podman with its last digest."""
        found = self.find(name)
        if found is not None:
            held = found["RepoTags"] if name in found["RepoTags"] else found["RepoDigests"]
            if len(found["RepoTags"]) <= 1 and any(each["Image"] == found["Id"] for each in self.containers.values()):
                return JSONResponse({"message": "image is being used by a container"}, status_code=409)
            held.remove(name)
            if not found["RepoTags"] and not (self.podman and found["RepoDigests"]):
                del self.images[found["Id"]]
        return None if found is None else JSONResponse([{"Untagged": name}])

    @staticmethod
    def _listed(image: dict[str, Any]) -> dict[str, Any]:
        kept = {key: image[key] for key in ("Id", "RepoTags", "RepoDigests")}
        return kept | {"Created": 1767323045, "Labels": None, "Size": 1000}


def _labelled(container: Mapping[str, Any], wanted: list[str]) -> bool:
    labels = (container.get("Config") or {}).get("Labels") or {}
    return all(labels.get(each.partition("=")[0]) == each.partition("=")[2] for each in wanted)


def _document(found: dict[str, Any] | None) -> Response | None:
    return None if found is None else JSONResponse(found)


def _wrongly(wrong: Wrong) -> Response:
    headers = {"content-type": wrong.kind} | wrong.headers
    if not wrong.endless:
        return Response(wrong.body, wrong.status, headers)
    return StreamingResponse(_endless(wrong.body), wrong.status, headers)


async def _endless(body: bytes) -> AsyncIterator[bytes]:
    while True:
        yield body
        await asyncio.sleep(0)  # other tasks run, also when the client has stopped reading
