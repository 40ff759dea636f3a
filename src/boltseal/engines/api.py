"""The door to an engine that runs: Docker's API, and Podman's compatible one, by httpx2.

One `Engine` for each address, open for as long as `connected` lasts. Rules kept:

* An answer is read up to MAX_ANSWER_BYTES and for ANSWER_S; a progress stream up to MAX_LINE_BYTES a line, and no longer
  silent than SILENT_S. What is read becomes the frozen values of `inventory` at once.
* A redirect is an error. Proxies and logins of the environment are not used, no cookie is kept, no encoding is
  asked for.
* What ends without saying that it is done is not done: a pull is believed when the engine then has the image.
* Every failure is one of the kinds below, with one line that says what to do.
* Only `pull`, `tag`, `untag` and `load` change anything, and none of them takes away the last name of an image unasked.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx2

from boltseal.engines import inventory
from boltseal.engines.address import PORTS, EngineAddress
from boltseal.engines.bounded_answers import (
    MAX_ANSWER_BYTES,
    MAX_LINE_BYTES,
    PIECE_BYTES,
    complaint,
    contents,
    lines,
    pieces,
    whole,
)
from boltseal.engines.container_logs import LogTail
from boltseal.engines.inventory import About, EngineContainer, EngineImage, EngineMismatch, ImageStoreKind
from boltseal.engines.ssh_tunnel import Tunnel, tunnel
from boltseal.errors import BoltsealError, Denied, Full, NotFound, Unavailable, quote
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference
from boltseal.socket_backend import SocketTransport

K = TypeVar("K")
V = TypeVar("V")

ANSWER_S: Final = 60.0
CONNECT_S: Final = 10.0
CONNECTIONS: Final = 8
MAX_CONTAINERS: Final = 10_000
LOOK_S: Final = 600.0
"""For all containers or images that are asked about together, however slowly the engine answers."""

Name = Reference | Digest
"""How an image is named to an engine: by a reference, or by its ID."""


class EngineUnavailable(Unavailable):
    """Nobody listens there, or nobody answers."""


class EngineForbidden(Denied):
    """There is an engine, and we have not got the right to talk to it."""


class EngineFailed(Unavailable):
    """The engine says that it could not do it."""


class EngineRefused(Denied):
    """The engine, or a rule of this door, says no: the image is in use, or it is the last name of one."""


class EngineFull(Full):
    """No room on the engine's disk."""


class NoSuchImage(NotFound):
    """The engine has no such image."""


class NoSuchContainer(NotFound):
    """The engine has no such container, any more."""


@dataclass(frozen=True, slots=True)
class Login:
    """What a registry wants to see; the engine sends it on. Never shown."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class EngineProgress:
    """A step of a pull or load, in the engine's words. `total`: bytes, 0 where it does not say."""

    status: str
    layer: str = ""
    current: int = 0
    total: int = 0


Tell = Callable[[EngineProgress], None]


def _silent(_step: EngineProgress) -> None:
    """Nobody wants to know how far it is."""


class Engine:
    """An engine that answered. Safe to use by several tasks at a time; CONNECTIONS requests go on at once."""

    def __init__(self, http: httpx2.AsyncClient, url: str, address: EngineAddress, way: Tunnel | None) -> None:
        self.address = address
        self._http = http
        self._url = url
        self._way = way
        self.about = About("Docker", "", "", Platform())

    async def greet(self) -> None:
        """Ask who it is, and speak the version of the API that it speaks. What the door does first."""
        self.about = inventory.about(await self._ask("GET", "version"))
        self._url += f"/v{self.about.api}"

    def environment(self) -> dict[str, str]:
        """What tells Docker's own programs of it, for as long as it is connected: behind ssh by the way that we have to it."""
        return self.address.environment() if self._way is None else {"DOCKER_HOST": f"unix://{self._way.socket}"}

    async def store(self) -> ImageStoreKind:
        """Where it keeps images."""
        return inventory.store(await self._ask("GET", "info"), self.about)

    async def data_root(self) -> Path | None:
        """The folder in which it keeps everything, on its own host; None where it does not say."""
        return inventory.data_root(await self._ask("GET", "info"))

    async def container_ids(self, *, all_: bool = False, label: str = "") -> tuple[str, ...]:
        """The containers that run; `all_`: also those that do not; `label`: only those with it (`NAME=VALUE`). One request.

        EngineMismatch for more than MAX_CONTAINERS: nobody asks about each of them.
        """
        parameters = {"all": "1" if all_ else "0"}
        if label:
            parameters["filters"] = json.dumps({"label": [label]})
        found = inventory.container_ids(await self._ask("GET", "containers/json", params=parameters))
        if len(found) > MAX_CONTAINERS:
            raise EngineMismatch(
                f"the engine says that it has {len(found)} containers; more than {MAX_CONTAINERS} are not looked at"
            )
        return found

    async def containers(
        self, *, all_: bool = False, label: str = "", within_s: float = LOOK_S
    ) -> tuple[EngineContainer, ...]:
        """The same, each asked about once; one that goes meanwhile is not among them. EngineUnavailable after `within_s`."""
        ids = await self.container_ids(all_=all_, label=label)
        try:
            async with asyncio.timeout(within_s):
                found = await each_once(ids, self.container, NoSuchContainer)
        except TimeoutError as error:
            raise EngineUnavailable(f"{self._who} has not told of its containers after {within_s:g} s") from error
        return tuple(each for each in found.values() if each is not None)

    async def container(self, id_: str) -> EngineContainer:
        """One container. NoSuchContainer when it has gone."""
        return inventory.container(await self._ask("GET", f"containers/{inventory.container_id(id_)}/json"))

    async def logs(self, id_: str, lines: int) -> tuple[str, ...]:
        """The last lines that a container wrote, 1 to 1000, as a terminal may have them. NoSuchContainer, EngineMismatch.

        Two requests: how a log is sent is said by the container.
        """
        tail = LogTail(lines, terminal=(await self.container(id_)).terminal)
        wanted = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        async with self._stream("GET", f"containers/{id_}/logs", params=wanted, limit_s=ANSWER_S) as response:
            async for piece in pieces(response, most=MAX_ANSWER_BYTES):
                tail.feed(piece)
        return tail.end()

    async def images(self) -> tuple[EngineImage, ...]:
        """All images with their names. One request; it tells neither platforms nor when a tag was put on."""
        return inventory.images(await self._ask("GET", "images/json"))

    async def image(self, name: Name) -> EngineImage:
        """One image. NoSuchImage."""
        return inventory.image(await self._ask("GET", f"images/{name}/json"))

    async def pull(
        self, image: Reference, *, platform: str = "", login: Login | None = None, tell: Tell = _silent
    ) -> EngineImage:
        """Have the engine pull exactly this digest, under no tag. NoSuchImage where the registry has none; EngineFull."""
        if image.digest is None:
            raise AssertionError("a pull is by digest: what a tag means is asked before, and once")
        name = Reference(image.registry, image.repository, digest=image.digest)
        parameters = {"fromImage": str(name)} | ({"platform": platform} if platform else {})
        headers = {} if login is None else {"X-Registry-Auth": _header(login, image.registry)}
        await self._progress("images/create", tell, params=parameters, headers=headers)
        return await self.image(name)

    async def tag(self, image: Name, new: Reference) -> None:
        """Give an image one more name; another image that has it loses it, as with `docker tag`. NoSuchImage."""
        if new.tag is None or new.digest is not None:
            raise AssertionError("a name that is put on has a tag and no digest")
        await self._ask("POST", f"images/{image}/tag", params={"repo": new.name, "tag": str(new.tag)})

    async def untag(self, name: Reference, *, even_last: bool = False) -> None:
        """Take a name away, and nothing but it. NoSuchImage; EngineRefused where no other tag would be left.

        `even_last`: also the last one, with which the engine removes the image if nothing runs on it.
        """
        if not even_last and not [other for other in (await self.image(name)).names if other != name]:
            raise EngineRefused(f"{name.familiar()} is the last name of its image here, which would go with it")
        await self._ask("DELETE", f"images/{name}", params={"force": "0", "noprune": "1"})

    async def save(self, name: Name, to: Path) -> None:
        """Write an image to a file, as `docker save` does. NoSuchImage; what was written of a failure is not whole."""
        async with self._stream("GET", f"images/{name}/get") as response:
            with to.open("wb") as file:
                async for piece in pieces(response, size=PIECE_BYTES):
                    await asyncio.to_thread(file.write, piece)

    async def load(self, archive: Path, *, tell: Tell = _silent) -> None:
        """Have the engine take the images of an archive. EngineFailed where it does not."""
        with archive.open("rb") as file:
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(os.fstat(file.fileno()).st_size)}
            await self._progress("images/load", tell, headers=headers, content=contents(file))

    async def _ask(self, method: str, path: str, **request: Any) -> bytes:
        async with self._stream(method, path, limit_s=ANSWER_S, **request) as response:
            return await whole(response)

    async def _progress(self, path: str, tell: Tell, **request: Any) -> None:
        async with self._stream("POST", path, **request) as response:
            async for raw in lines(response):
                step = inventory.line(raw)
                if wrong := _wrong(step):
                    raise _failed(wrong)
                tell(_step(step))

    @asynccontextmanager
    async def _stream(
        self, method: str, path: str, *, limit_s: float | None = None, **request: Any
    ) -> AsyncIterator[httpx2.Response]:
        """An answer of 200 to 299, closed at the end. `request`: as httpx2's `stream` takes it.

        What fails on the way to the engine comes out as one of our kinds.
        """
        try:
            async with (
                asyncio.timeout(limit_s),
                self._http.stream(method, f"{self._url}/{path}", **request) as response,
            ):
                if not response.is_success:
                    raise await self._unsuccessful(response, path)
                yield response
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise EngineUnavailable(f"{self._who} does not answer in time") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError) as error:
            raise await self._broken(error) from error

    @property
    def _who(self) -> str:
        return f"the engine at {self.address}"

    async def _unsuccessful(self, response: httpx2.Response, path: str) -> BoltsealError:
        status = response.status_code
        if status < 400:
            return EngineMismatch(f"{self._who} redirects (status {status}); boltseal does not follow it")
        said = await complaint(response)
        if said is None:
            return EngineFailed(f"{self._who} failed, and does not say in Docker's way why")
        if status == 404 and path.startswith("containers/"):
            return NoSuchContainer(f"{self._who} has no such container any more")
        return _failed(said, status)

    async def _broken(self, error: Exception) -> BoltsealError:
        if self._way is not None:
            return await self._way.broken()
        number = _errno(error)
        if number in (errno.EACCES, errno.EPERM):
            return EngineForbidden(
                f"no right to the engine's socket {self.address.path}; be of its group (`docker`), or be root"
            )
        if number in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK):
            return EngineUnavailable(
                f"no engine listens at {self.address}; is Docker running? --host or DOCKER_HOST names another, "
                "such as Podman's unix:///run/podman/podman.sock"
            )
        reason = quote(str(error) or type(error).__name__, 200)
        return EngineUnavailable(f"{self._who} does not answer: {reason}")


@asynccontextmanager
async def connected(address: EngineAddress) -> AsyncIterator[Engine]:
    """The engine at an address, greeted. EngineUnavailable, EngineForbidden, SshFailed, EngineMismatch."""
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(tunnel(address)) if address.scheme == "ssh" else None
        url, transport = _transport(address, way)
        http = await stack.enter_async_context(
            httpx2.AsyncClient(
                transport=transport,
                timeout=_TIMEOUT,
                trust_env=False,
                headers={"Accept-Encoding": "identity"},
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        )
        engine = Engine(http, url, address, way)
        await engine.greet()
        yield engine


async def each_once(keys: Iterable[K], ask: Callable[[K], Awaitable[V]], missing: type[Exception]) -> dict[K, V | None]:
    """The answer for each key, asked once, as many at a time as an engine has connections; None for what is `missing`."""
    at_once = asyncio.Semaphore(CONNECTIONS)

    async def one(key: K) -> V | None:
        async with at_once:
            try:
                return await ask(key)
            except missing:  # it has gone since it was listed
                return None

    wanted = list(dict.fromkeys(keys))
    tasks = [asyncio.ensure_future(one(key)) for key in wanted]
    try:
        return dict(zip(wanted, await asyncio.gather(*tasks), strict=True))
    finally:
        for task in tasks:
            task.cancel()


_TIMEOUT: Final = httpx2.Timeout(None, connect=CONNECT_S)
"""The rest is bounded where it is read: an upload of gigabytes may take as long as it moves."""


def _transport(address: EngineAddress, way: Tunnel | None) -> tuple[str, SocketTransport]:
    """The start of each URL, and what connects to it."""
    limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts no certificate: a socket and plain tcp need none
    if address.scheme != "tcp":
        socket = address.path if way is None else str(way.socket)
        return "http://localhost", SocketTransport(context, limits, reach=None, uds=socket)
    scheme, port = "http", PORTS["tcp"]
    if address.certificates is not None:
        scheme, port, context = "https", PORTS["tls"], _trusting(address.certificates)
    host = f"[{address.host}]" if ":" in address.host else address.host
    url = f"{scheme}://{host}:{address.port or port}"
    return url, SocketTransport(context, limits, reach=None)


def _trusting(folder: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    except (OSError, ssl.SSLError) as error:
        raise EngineUnavailable(
            f"{folder}: ca.pem, cert.pem and key.pem can't be used: {error.strerror or error}; see DOCKER_CERT_PATH"
        ) from error
    return context


def _errno(error: Exception) -> int | None:
    """The system's number where no connection could be made, None for all else."""
    made = error.__cause__ if isinstance(error, httpx2.ConnectError) else None
    under = None if made is None else made.__context__  # httpcore2 clears the cause of its own error
    return under.errno if isinstance(under, OSError) and not isinstance(under, ssl.SSLError) else None


def _header(login: Login, registry: str) -> str:
    said = {"username": login.username, "password": login.password, "serveraddress": registry}
    if login.identity_token:
        said = {"identitytoken": login.identity_token, "serveraddress": registry}
    return base64.urlsafe_b64encode(json.dumps(said).encode()).decode("ascii")


def _wrong(step: Any) -> str:
    """What a line of a progress stream says went wrong."""
    detail = step.get("errorDetail")
    said = detail.get("message") if isinstance(detail, dict) else None
    said = said or step.get("error")
    return str(said)[:MAX_LINE_BYTES] if said else ""


def _step(step: Any) -> EngineProgress:
    detail = step.get("progressDetail")
    detail = detail if isinstance(detail, dict) else {}
    numbers = [number if isinstance(number := detail.get(key), int) else 0 for key in ("current", "total")]
    return EngineProgress(str(step.get("status") or step.get("stream") or ""), str(step.get("id") or ""), *numbers)


def _failed(said: str, status: int = 0) -> BoltsealError:
    """An engine's words as one of our kinds."""
    lower, reason = said.lower(), quote(said.strip(), 300)
    if "no space left on device" in lower or "disk quota exceeded" in lower:
        return EngineFull(f"the engine's disk is full: {reason}")
    if status == 404 or "manifest unknown" in lower or "no such image" in lower:
        return NoSuchImage(f"there is no such image: {reason}")
    if status in (401, 403, 409):
        return EngineRefused(f"the engine refuses: {reason}")
    return EngineFailed(f"the engine failed: {reason}")
