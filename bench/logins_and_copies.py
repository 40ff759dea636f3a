"""Measures logins with an access log, polls of many tags, and copies: beside a server without logins, or beside skopeo.

The servers of the copies may run on both cores, as outside of a benchmark.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import httpx2
import uvloop

from bench import load
from bench.content import CONFIG_TYPE, GIB_LAYERS_MIB, KIB, MANIFEST_TYPE, MIB, Blob, make_content, write_image
from bench.measures import Figure, Measure, Run
from bench.peers import BOLTSEAL, ON_SERVER_CORE, OPEN, REGISTRY, SKOPEO, Readable, readable
from boltseal.client.credentials import CredentialStore
from boltseal.client.head_requests import resolve_tags
from boltseal.client.transport import Transport
from boltseal.oci.reference import Reference
from boltseal.server.auth.logins import hash_password
from boltseal.server.storage.users import UserFile
from tests import servers
from tests.programs import program
from tests.servers import Server

USER, PASSWORD = "bench", "a word for the benchmark"
BASIC = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
REPOSITORIES, TAGS = 500, 20
LOGIN_USERS, LOGINS_PER_SECOND = 64, 1000.0
BOTH_CORES = ("taskset", "-c", "0,1")


def measures() -> Iterator[Measure]:
    """Yield every measure of logins, polls and copies."""
    yield Measure(
        "guarded",
        (BOLTSEAL, OPEN),
        (
            Figure("guarded-basic", "manifest GET with Basic, with an access log", "/s", goals={OPEN: 0.85}),
            Figure("guarded-bearer", "manifest GET with a token, with an access log", "/s", goals={OPEN: 0.85}),
        ),
        _guarded,
    )
    yield Measure(
        "logins",
        (BOLTSEAL,),
        (
            Figure("logins-alone", "pull of a manifest, p99", "ms", True),
            Figure("logins-beside", "pull of a manifest, p99, beside 1,000 logins a second", "ms", True),
            Figure("logins-ratio", "how much slower that is (2 are promised)", "times", True),
            Figure("logins-rate", "logins that were answered meanwhile (1,000 are wanted)", "/s"),
        ),
        _logins,
    )
    yield Measure(
        "poll",
        (BOLTSEAL,),
        (
            Figure("poll", "10,000 HEADs in 500 repositories with a login (20 s are promised)", "s", True),
            Figure("poll-processor", "what the client's core worked for that", "s", True),
            Figure("poll-tokens", "tokens asked for meanwhile (50 are promised)", "tokens", True),
            Figure("poll-memory", "growth of the client from the first thousand answers on", "MiB", True),
        ),
        _poll,
    )
    yield Measure(
        "copy",
        (BOLTSEAL, SKOPEO),
        (
            Figure("copy-boltseal", "copy of 1 GiB between two boltseals", "s", True, {SKOPEO: 1}),
            Figure("copy-registry", "copy of 1 GiB between two docker-registries", "s", True, {SKOPEO: 1}),
        ),
        _copy,
    )


# --- logins and access log -------------------------------------------------------------------------------------------


def _guarded(run: Run, peer: str) -> Sequence[float]:
    at = _server(run, peer)
    token = ""
    if peer == BOLTSEAL:
        scope = "repository:bench/app:pull"
        asked = httpx2.get(
            f"{at.server.url}/token", params={"scope": scope}, auth=(USER, PASSWORD), trust_env=False
        ).raise_for_status()
        token = asked.json()["token"]
    rates = []
    for authorization in (f"Basic {BASIC}", f"Bearer {token}"):
        headers = [f"Accept: {MANIFEST_TYPE}"]
        headers += [f"Authorization: {authorization}"] if peer == BOLTSEAL else []
        rates.append(load.wrk(at.server.url + at.by_tag, run.seconds, headers).per_second)
    return rates


def _logins(run: Run, peer: str) -> Sequence[float]:
    """Pull with a token, alone and beside users who log in as `docker login` does: with user and password at the token service."""
    at = _server(run, peer)
    if "many users" not in run.kept:
        hashed = hash_password(PASSWORD)
        users = UserFile(at.server.folder.with_name(f"{at.server.folder.name}.keys") / "htpasswd")
        for number in range(LOGIN_USERS):
            users.put(f"user{number}", hashed)
        # The first login of a user computes a bcrypt hash, which takes long on purpose: not in the measured time.
        for number in range(LOGIN_USERS):
            login = (f"user{number}", PASSWORD)
            httpx2.get(f"{at.server.url}/token", auth=login, timeout=60, trust_env=False).raise_for_status()
        run.kept["many users"] = True
    scope = "repository:bench/app:pull"
    asked = httpx2.get(
        f"{at.server.url}/token", params={"scope": scope}, auth=(USER, PASSWORD), trust_env=False
    ).raise_for_status()
    headers = [f"Accept: {MANIFEST_TYPE}", f"Authorization: Bearer {asked.json()['token']}"]
    alone = load.wrk(at.server.url + at.by_tag, run.seconds, headers).p99_ms
    with load.Paced(at.server.address, _login_requests(at.server), LOGINS_PER_SECOND) as logins:
        started = time.perf_counter()
        beside = load.wrk(at.server.url + at.by_tag, run.seconds, headers).p99_ms
        rate = logins.answered / (time.perf_counter() - started)
    if logins.refused:
        raise load.WrongAnswer(f"{logins.refused} logins were refused")
    return (alone, beside, beside / alone, rate)


def _login_requests(server: Server) -> list[bytes]:
    basic = (base64.b64encode(f"user{number}:{PASSWORD}".encode()).decode() for number in range(LOGIN_USERS))
    return [
        f"GET /token?account=user{number}&scope=repository:bench/app:pull HTTP/1.1\r\nHost: {server.address}\r\n"
        f"Authorization: Basic {login}\r\n\r\n".encode()
        for number, login in enumerate(basic)
    ]


def _server(run: Run, peer: str) -> Readable:
    """Return a registry with users and an access log, or one without either."""
    key = f"guarded {peer}"
    if key not in run.kept:
        folder = run.folder / key.replace(" ", "-")
        settings = {} if peer == BOLTSEAL else {"BOLTSEAL_SERVER__ACCESS_LOG": "false"}
        at = run.stack.enter_context(readable(BOLTSEAL, folder, make_content(KIB), settings))
        if peer == BOLTSEAL:
            _add_user(at.server)
        run.kept[key] = at
    found: Readable = run.kept[key]
    return found


def _add_user(server: Server) -> None:
    UserFile(server.folder.with_name(f"{server.folder.name}.keys") / "htpasswd").put(USER, hash_password(PASSWORD))


# --- many HEADs -------------------------------------------------------------------------------------------------


def _poll(run: Run, _: str) -> Sequence[float]:
    if "poll" not in run.kept:
        folder = run.folder / "polled"
        folder.mkdir()
        server = run.stack.enter_context(servers.boltseal(folder / "data", before=ON_SERVER_CORE))
        _publish_many(server)
        _add_user(server)
        (folder / "config.json").write_text(json.dumps({"auths": {server.address: {"auth": BASIC}}}))
        run.kept["poll"] = server
    server = run.kept["poll"]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_ask_all(server, run.folder / "polled" / "config.json"))


def _publish_many(server: Server) -> None:
    config = Blob(b"{}")
    described = {"mediaType": CONFIG_TYPE, "digest": config.digest, "size": 2}
    manifest = Blob(
        json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": described, "layers": []}).encode()
    )
    tags = "&".join(f"tag={tag}" for tag in _tags())
    with httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        for name in _repositories():
            client.post(f"/v2/{name}/blobs/uploads/?digest={config.digest}", content=config.data).raise_for_status()
            client.put(
                f"/v2/{name}/manifests/{manifest.digest}?{tags}",
                content=manifest.data,
                headers={"content-type": MANIFEST_TYPE},
            ).raise_for_status()


async def _ask_all(server: Server, logins: Path) -> Sequence[float]:
    references = [Reference.parse(f"{server.address}/{name}:{tag}") for name in _repositories() for tag in _tags()]
    transport = Transport(CredentialStore([logins]))
    answered, early = 0, 0
    try:
        started, spent = time.perf_counter(), time.process_time()
        async for answer in resolve_tags(transport, references):
            if answer.error is not None:
                raise load.WrongAnswer(str(answer.error))
            answered += 1
            if answered == len(references) // 10:
                early = _resident_bytes()
        seconds, spent_s = time.perf_counter() - started, time.process_time() - spent
    finally:
        await transport.aclose()
    return seconds, spent_s, transport.tokens.asked, max(0, _resident_bytes() - early) / MIB


def _repositories() -> Iterator[str]:
    return (f"team{number % 10}/app{number}" for number in range(REPOSITORIES))


def _tags() -> Iterator[str]:
    return (f"1.0.{number}" for number in range(TAGS))


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * KIB


# --- copies -----------------------------------------------------------------------------------------------------


def _copy(run: Run, peer: str) -> Sequence[float]:
    return [_one_copy(run, peer, kind) for kind in (BOLTSEAL, REGISTRY)]


def _one_copy(run: Run, peer: str, kind: str) -> float:
    source = f"{_source(run, kind).address}/bench/app:1.0.0"
    folder = run.empty()
    with _registry(kind, folder) as server:
        target = f"{server.address}/bench/app:1.0.0"
        if peer == BOLTSEAL:
            argv = [sys.executable, "-m", "boltseal", "copy", source, target]
        else:
            plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
            argv = [_skopeo(), *_QUIETLY, *plain, f"docker://{source}", f"docker://{target}"]
        subprocess.run(["sync", "-f", str(folder)], check=True)
        started = time.perf_counter()
        subprocess.run([*BOTH_CORES, *argv], check=True, capture_output=True, env=_as_installed())
        seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return seconds


def _as_installed() -> dict[str, str]:
    """Return the environment, but with compiled modules kept, as after an installation by pip."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _source(run: Run, kind: str) -> Server:
    """Return a registry of this kind that has the image."""
    key = f"copied {kind}"
    if key not in run.kept:
        image = run.folder / "gib"
        if not image.exists():
            write_image(image, GIB_LAYERS_MIB)
        server = run.stack.enter_context(_registry(kind, run.folder / key.replace(" ", "-")))
        target = f"docker://{server.address}/bench/app:1.0.0"
        subprocess.run([_skopeo(), *_QUIETLY, "--dest-tls-verify=false", f"oci:{image}:image", target], check=True)
        run.kept[key] = server
    found: Server = run.kept[key]
    return found


def _registry(kind: str, folder: Path) -> AbstractContextManager[Server]:
    folder.mkdir()
    if kind == BOLTSEAL:
        return servers.boltseal(folder / "data", before=BOTH_CORES)
    return servers.docker_registry(folder, before=BOTH_CORES)


_QUIETLY = ("--insecure-policy", "copy", "--quiet")


def _skopeo() -> str:
    return program("skopeo")
