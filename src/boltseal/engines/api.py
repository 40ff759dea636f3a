"""Client of a running engine: Docker's API, and Podman's compatible one, over httpx2.

There is one `Engine` per address, open during `connected`. Rules:

- An answer is read up to MAX_ANSWER_BYTES and for ANSWER_S; a progress stream up to MAX_LINE_BYTES per line, with at
  most SILENT_S without data. What is read becomes frozen values of `inventory`.
- A redirect is an error. No proxy or login of the environment is used, no cookie stored, no content encoding requested.
- A stream that ends without reporting success is no success: after a pull, the engine is asked for the image.
- Every failure is one of the errors below, with one line that says what to do.
- Only `pull`, `tag`, `untag` and `load` change images, and none of them removes the last tag of an image unless asked
  to. Containers are changed by `container_control`, which sends its requests by `ask`; `release_volume` adds a container
  that is never started.
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
from dataclasses import dataclass, field, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx2

from boltseal.engines import inventory
from boltseal.engines.address import DOCKER_SOCKET, PORTS, EngineAddress
from boltseal.engines.bounded_answers import (
    MAX_ANSWER_BYTES,
    MAX_LINE_BYTES,
    PIECE_BYTES,
    SILENT_S,
    chunks,
    connection_errno,
    error_message,
    file_chunks,
    lines,
    read_all,
)
from boltseal.engines.container_logs import LogTail
from boltseal.engines.inventory import About, EngineContainer, EngineImage, EngineMismatch, ImageStoreKind
from boltseal.engines.ssh_command import engine_socket_there
from boltseal.engines.ssh_tunnel import NoEngineThere, Tunnel, tunnel
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
_ALREADY_SO: Final = 304  # Docker's answer for a container that is started or stopped already
QUERY_S: Final = 600.0
"""Time limit for all containers or images of one query, however slowly the engine answers."""

Name = Reference | Digest
"""An image for the engine: a reference or its ID."""


class EngineUnavailable(Unavailable):
    """No engine listens at the address, or it does not answer."""


class EngineFailed(Unavailable):
    """The engine reports a failure."""


class EngineRefused(Denied):
    """The engine or this client refuses: the image is in use, or the tag is its last one."""


class EngineFull(Full):
    """The engine's disk is full."""


class NoSuchImage(NotFound):
    """The engine has no such image."""


class NoSuchContainer(NotFound):
    """The engine has no such container (any more)."""


@dataclass(frozen=True, slots=True)
class Login:
    """Credentials for a registry, which the engine sends on. Never shown."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class EngineProgress:
    """A step of a pull or load, in the engine's words. `total`: bytes, 0 if not sent."""

    status: str
    layer: str = ""
    current: int = 0
    total: int = 0


ProgressCallback = Callable[[EngineProgress], None]


def _silent(_step: EngineProgress) -> None:
    """Ignore progress."""


class Engine:
    """A connected engine. Safe for concurrent tasks; at most CONNECTIONS requests run at once."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        url: str,
        address: EngineAddress,
        forwarded: Tunnel | None,
        *,
        silent_s: float = SILENT_S,
    ) -> None:
        self.address = address
        self._http = http
        self._url = url
        self._tunnel = forwarded
        self._silent_s = silent_s
        self.about = About("Docker", "", "", Platform())

    async def negotiate(self) -> None:
        """Read the engine's version and use its API version. `connected` calls this first."""
        self.about = inventory.about(await self.ask("GET", "version"))
        self._url += f"/v{self.about.api}"

    def environment(self) -> dict[str, str]:
        """Return the variables that point Docker's own programs to this engine while it is connected; behind ssh, the
        tunnel.
        """
        return self.address.environment() if self._tunnel is None else {"DOCKER_HOST": f"unix://{self._tunnel.socket}"}

    async def store(self) -> ImageStoreKind:
        """Return which image store the engine uses. Podman is not asked: it would look up packages."""
        return ImageStoreKind.PODMAN if self.about.podman else inventory.store(await self.ask("GET", "info"))

    async def data_root(self) -> Path | None:
        """Return the engine's data folder on its own host, or None if it does not report one."""
        return inventory.data_root(await self.ask("GET", "info"))

    async def container_ids(self, *, all_: bool = False, label: str = "") -> tuple[str, ...]:
        """Return the IDs of running containers, in one request. `all_`: also stopped ones; `label`: only those with
        `NAME=VALUE`.

        Raises: EngineMismatch: more than MAX_CONTAINERS.
        """
        parameters = {"all": "1" if all_ else "0"}
        if label:
            parameters["filters"] = json.dumps({"label": [label]})
        found = inventory.container_ids(await self.ask("GET", "containers/json", params=parameters))
        if len(found) > MAX_CONTAINERS:
            raise EngineMismatch(f"the engine reports {len(found)} containers (at most {MAX_CONTAINERS} are supported)")
        return found

    async def containers(
        self, *, all_: bool = False, label: str = "", within_s: float = QUERY_S
    ) -> tuple[EngineContainer, ...]:
        """Return the containers that `container_ids` lists, each queried once; containers that vanish meanwhile are
        left out.

        Raises: EngineUnavailable: after `within_s`.
        """
        ids = await self.container_ids(all_=all_, label=label)
        try:
            async with asyncio.timeout(within_s):
                found = await query_each(ids, self.container, NoSuchContainer)
        except TimeoutError as error:
            raise EngineUnavailable(f"{self._label} did not report its containers within {within_s:g} s") from error
        return tuple(each for each in found.values() if each is not None)

    async def container(self, id_: str) -> EngineContainer:
        """Return one container. Raises: NoSuchContainer."""
        return inventory.container(await self.ask("GET", f"containers/{inventory.container_id(id_)}/json"))

    async def logs(self, id_: str, lines: int) -> tuple[str, ...]:
        """Return the last lines of a container's log, 1 to 1000, safe for a terminal.

        Two requests are sent, since the log's format depends on the container. Raises: NoSuchContainer, EngineMismatch.
        """
        tail = LogTail(lines, terminal=(await self.container(id_)).terminal)
        wanted = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        async with self.stream("GET", f"containers/{id_}/logs", params=wanted, limit_s=ANSWER_S) as response:
            async for piece in chunks(response, most=MAX_ANSWER_BYTES):
                tail.feed(piece)
        return tail.end()

    async def images(self) -> tuple[EngineImage, ...]:
        """Return all images with their tags, in one request, without platforms and times of tagging."""
        return inventory.images(await self.ask("GET", "images/json"))

    async def image(self, name: Name) -> EngineImage:
        """Return one image. Raises: NoSuchImage."""
        return inventory.image(await self.ask("GET", f"images/{name}/json"))

    async def layer_folders(self, image: Digest) -> tuple[str, ...]:
        """Return the folders that the engine uses for an image's layers, topmost first; none if it does not report them.

        Raises: NoSuchImage.
        """
        return inventory.layer_folders(await self.ask("GET", f"images/{image}/json"))

    async def pull(
        self, image: Reference, *, platform: str = "", login: Login | None = None, progress: ProgressCallback = _silent
    ) -> EngineImage:
        """Make the engine pull exactly this digest, without a tag.

        Raises: NoSuchImage: the registry does not have it; EngineFull; EngineFailed.
        """
        if image.digest is None:
            raise AssertionError("a pull needs a digest: the tag is resolved once, before")
        name = Reference(image.registry, image.repository, digest=image.digest)
        parameters = {"fromImage": str(name)} | ({"platform": platform} if platform else {})
        headers = {} if login is None else {"X-Registry-Auth": _header(login, image.registry)}
        await self._progress("images/create", progress, params=parameters, headers=headers)
        return await self.image(name)

    async def tag(self, image: Name, new: Reference) -> None:
        """Add a tag to an image. Another image with this tag loses it, as with `docker tag`. Raises: NoSuchImage."""
        if new.tag is None or new.digest is not None:
            raise AssertionError("the new name needs a tag and no digest")
        await self.ask("POST", f"images/{image}/tag", params={"repo": new.name, "tag": str(new.tag)})

    async def untag(self, name: Reference, *, allow_last: bool = False) -> None:
        """Remove a tag, and nothing else. Raises: NoSuchImage; EngineRefused: it is the image's last tag.

        `allow_last`: also remove the last tag, with which the engine deletes the image if no container uses it.
        """
        if not allow_last and not [other for other in (await self.image(name)).names if other != name]:
            raise EngineRefused(
                f"{name.familiar()} is the last tag of its image on this engine; removing it would delete the image"
            )
        await self.ask("DELETE", f"images/{name}", params={"force": "0", "noprune": "1"})

    async def save(self, name: Name, to: Path) -> None:
        """Write an image to a file, as `docker save` does. After an error the file is incomplete. Raises: NoSuchImage."""
        async with self.stream("GET", f"images/{name}/get") as response:
            with to.open("wb") as file:
                async for piece in chunks(response, size=PIECE_BYTES, silent_s=self._silent_s):
                    await asyncio.to_thread(file.write, piece)

    async def load(self, archive: Path, *, progress: ProgressCallback = _silent) -> None:
        """Make the engine load the images of an archive. Raises: EngineFailed."""
        with archive.open("rb") as file:
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(os.fstat(file.fileno()).st_size)}
            await self._progress("images/load", progress, headers=headers, content=file_chunks(file))

    async def ask(self, method: str, path: str, *, limit_s: float = ANSWER_S, **request: Any) -> bytes:
        """Send one request and return its answer. `limit_s`: time limit; `request`: arguments of httpx2's `stream`."""
        async with self.stream(method, path, limit_s=limit_s, **request) as response:
            return await read_all(response)

    async def _progress(self, path: str, progress: ProgressCallback, **request: Any) -> None:
        async with self.stream("POST", path, **request) as response:
            async for raw in lines(response, silent_s=self._silent_s):
                step = inventory.line(raw)
                if message := _step_error(step):
                    raise _failed(message)
                progress(_step(step))

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, *, limit_s: float | None = None, **request: Any
    ) -> AsyncIterator[httpx2.Response]:
        """Open a request; yield a successful answer (200 to 299). `request`: arguments of httpx2's `stream`.

        Transport errors are raised as the errors of this module.
        """
        try:
            async with (
                asyncio.timeout(limit_s),
                self._http.stream(method, f"{self._url}/{path}", **request) as response,
            ):
                already_so = response.status_code == _ALREADY_SO and path.endswith(("/start", "/stop"))
                if not response.is_success and not already_so:
                    raise await self._unsuccessful(response, path)
                yield response
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise EngineUnavailable(f"{self._label} does not answer in time") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError) as error:
            raise await self._broken(error) from error

    @property
    def _label(self) -> str:
        return f"the engine at {self.address}"

    async def _unsuccessful(self, response: httpx2.Response, path: str) -> BoltsealError:
        status = response.status_code
        if status < 400:
            return EngineMismatch(f"{self._label} redirects (status {status}); boltseal does not follow it")
        message = await error_message(response)
        if message is None:
            return EngineFailed(f"{self._label} failed without an error message in Docker's format")
        if status == 404 and path.startswith("containers/") and path != "containers/create":
            return NoSuchContainer(f"{self._label} has no such container")
        return _failed(message, status)

    async def _broken(self, error: Exception) -> BoltsealError:
        if self._tunnel is not None:
            return await self._tunnel.broken()
        number = connection_errno(error)
        if number in (errno.EACCES, errno.EPERM):
            return Denied(
                f"no permission for the engine's socket {self.address.path}; join its group (`docker`) or run as root"
            )
        if number in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK):
            return EngineUnavailable(
                f"no engine listens at {self.address}; is Docker running? Use --host or DOCKER_HOST for another engine, "
                "such as Podman's unix:///run/podman/podman.sock"
            )
        reason = quote(str(error) or type(error).__name__, 200)
        return EngineUnavailable(f"{self._label} does not answer: {reason}")


@asynccontextmanager
async def connected(address: EngineAddress, *, silent_s: float = SILENT_S) -> AsyncIterator[Engine]:
    """Connect to the engine at an address. `silent_s`: longest time in which a stream may bring no data.

    Raises: EngineUnavailable, Denied, SshFailed, EngineMismatch.
    """
    async with AsyncExitStack() as stack:
        try:
            engine = await _opened(stack, address, address, silent_s)
        except NoEngineThere:
            named = await engine_socket_there(address) if address.path == DOCKER_SOCKET else None
            if named in (None, address.path):
                raise
            engine = await _opened(stack, address, replace(address, path=named or ""), silent_s)
        yield engine


async def _opened(stack: AsyncExitStack, address: EngineAddress, reached: EngineAddress, silent_s: float) -> Engine:
    """Return the engine, which is connected until the stack is closed. `reached`: `address` with the socket's path."""
    forwarded = await stack.enter_async_context(tunnel(reached)) if reached.scheme == "ssh" else None
    url, transport = _transport(reached, forwarded)
    http = await stack.enter_async_context(
        httpx2.AsyncClient(
            transport=transport,
            timeout=_TIMEOUT,
            trust_env=False,
            headers={"Accept-Encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
    )
    engine = Engine(http, url, address, forwarded, silent_s=silent_s)
    await engine.negotiate()
    return engine


async def query_each(
    keys: Iterable[K], ask: Callable[[K], Awaitable[V]], missing: type[Exception]
) -> dict[K, V | None]:
    """Query each key once, with at most CONNECTIONS requests at a time; None where the query raised `missing`."""
    at_once = asyncio.Semaphore(CONNECTIONS)

    async def query(key: K) -> V | None:
        async with at_once:
            try:
                return await ask(key)
            except missing:  # it vanished after it was listed
                return None

    wanted = list(dict.fromkeys(keys))
    tasks = [asyncio.ensure_future(query(key)) for key in wanted]
    try:
        return dict(zip(wanted, await asyncio.gather(*tasks), strict=True))
    finally:
        for task in tasks:
            task.cancel()


_TIMEOUT: Final = httpx2.Timeout(None, connect=CONNECT_S)
"""Only connecting has a timeout here; answers are bounded where they are read, and uploads may take any time."""


def _transport(address: EngineAddress, forwarded: Tunnel | None) -> tuple[str, SocketTransport]:
    """Return the URL prefix, and the transport."""
    limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without CA certificates: a socket and plain tcp need none
    if address.scheme != "tcp":
        socket = address.path if forwarded is None else str(forwarded.socket)
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


def _header(login: Login, registry: str) -> str:
    document = {"username": login.username, "password": login.password, "serveraddress": registry}
    if login.identity_token:
        document = {"identitytoken": login.identity_token, "serveraddress": registry}
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode("ascii")


def _step_error(step: Any) -> str:
    """Return the error message in a line of a progress stream, or ""."""
    detail = step.get("errorDetail")
    message = detail.get("message") if isinstance(detail, dict) else None
    message = message or step.get("error")
    return str(message)[:MAX_LINE_BYTES] if message else ""


def _step(step: Any) -> EngineProgress:
    detail = step.get("progressDetail")
    detail = detail if isinstance(detail, dict) else {}
    numbers = [number if isinstance(number := detail.get(key), int) else 0 for key in ("current", "total")]
    return EngineProgress(str(step.get("status") or step.get("stream") or ""), str(step.get("id") or ""), *numbers)


def _failed(message: str, status: int = 0) -> BoltsealError:
    """Return the error for an engine's error message."""
    lower, reason = message.lower(), quote(message.strip(), 300)
    if "no space left on device" in lower or "disk quota exceeded" in lower:
        return EngineFull(f"the engine's disk is full: {reason}")
    if status == 404 or "manifest unknown" in lower or "no such image" in lower:
        return NoSuchImage(f"no such image: {reason}")
    if status in (401, 403, 409):
        return EngineRefused(f"the engine refuses: {reason}")
    return EngineFailed(f"the engine failed: {reason}")
