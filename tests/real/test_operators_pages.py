"""The commands of the pages for operators: nginx and Caddy as proxies, the move from docker-registry, TLS with two
users."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.docs.pages import ROOT, typed_lines
from tests.polling import wait_until
from tests.ports import free_port
from tests.programs import program
from tests.real.layout import image_layout
from tests.real.tools import run

pytestmark = pytest.mark.real

MIB = 1024 * 1024

Proxy = Callable[[Path, str, int], AbstractContextManager[None]]


def page(name: str) -> str:
    """Return the text of a page for operators."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def certificate(folder: Path) -> None:
    """Create registry.crt and registry.key, self-signed for 127.0.0.1."""
    run(
        *("/usr/bin/openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(folder / "registry.key"), "-out", str(folder / "registry.crt")),
    ).checked()


@contextmanager
def nginx(folder: Path, upstream: str, port: int) -> Iterator[None]:
    """Run nginx with the page's server block, with port, files and upstream replaced."""
    block = page("operations/proxy.md").partition("```nginx\n")[2].partition("```")[0]
    for written, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/", f"{folder}/"),
        ("127.0.0.1:5000", upstream),
    ):
        assert written in block
        block = block.replace(written, here)
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nuser root;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{block}}}\n"
    )
    process = subprocess.Popen([program("nginx"), "-e", str(folder / "error.log"), "-c", str(config)])
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def caddy(folder: Path, upstream: str, port: int) -> Iterator[None]:
    """Run Caddy with the page's block, with name and upstream replaced, and an existing certificate."""
    block = page("operations/proxy.md").partition("## Caddy\n\n```text\n")[2].partition("```")[0]
    for written, here in (
        ("registry.example.com {", f"https://127.0.0.1:{port} {{\n    tls {folder}/registry.crt {folder}/registry.key"),
        ("127.0.0.1:5000", upstream),
    ):
        assert written in block
        block = block.replace(written, here)
    config = folder / "Caddyfile"
    config.write_text(f"{{\n    admin off\n    auto_https disable_redirects\n    skip_install_trust\n}}\n{block}")
    process = subprocess.Popen(
        [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)],
        env=os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_a_push_and_a_pull_of_64_mib_go_through_a_proxy(proxy: Proxy, tmp_path: Path) -> None:
    """With the page's configuration a proxy passes 64 MiB completely, and addresses in answers lead through it."""
    certificate(tmp_path)
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    fields = {"BOLTSEAL_SERVER__PUBLIC_URL": url, "BOLTSEAL_SERVER__BEHIND_PROXY": "true"}
    data = os.urandom(MIB) * 64
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    trust = ssl.create_default_context(cafile=str(tmp_path / "registry.crt"))
    with (
        servers.boltseal(tmp_path / "data", settings=fields) as server,
        proxy(tmp_path, server.address, port),
        httpx2.Client(base_url=url, verify=trust, trust_env=False, timeout=120) as client,
    ):

        def answers() -> bool:
            try:
                client.get("/v2/")
            except httpx2.ConnectError:
                return False
            return True

        wait_until(answers, "the proxy answers", 10.0)
        location = client.post("/v2/shop/app/blobs/uploads/").headers["location"]
        patched = client.patch(location, content=(data[at : at + MIB] for at in range(0, len(data), MIB)))
        done = client.put(f"{patched.headers['location']}?digest={digest}")
        pulled = client.get(f"/v2/shop/app/blobs/{digest}")
        metrics = client.get("/metrics")

    assert location.startswith(url)
    assert done.status_code == 201
    assert pulled.content == data
    assert metrics.status_code == 403  # through a proxy every client would seem to be this machine


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_wrong_passwords_of_one_client_of_a_proxy_make_no_other_wait(proxy: Proxy, tmp_path: Path) -> None:
    """With the page's configuration failed logins count for the proxy's client, whatever address it writes itself."""
    certificate(tmp_path)
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    table = re.search(r"```toml\n(.*?)```", page("operations/proxy.md"), re.DOTALL)
    assert table is not None
    config = re.sub("listen = .*\n", "", table[1]).replace("https://registry.example.com", url)
    trust = ssl.create_default_context(cafile=str(tmp_path / "registry.crt"))

    def client_at(address: str) -> httpx2.Client:
        transport = httpx2.HTTPTransport(verify=trust, local_address=address)
        return httpx2.Client(base_url=url, transport=transport, timeout=60)

    with (
        servers.boltseal(tmp_path / "data", config=config) as server,
        proxy(tmp_path, server.address, port),
        client_at("127.0.0.2") as attacker,
        client_at("127.0.0.3") as other,
    ):
        added = [sys.executable, "-m", "boltseal", "admin", "user", "add", "ci", "--data", str(tmp_path / "data")]
        subprocess.run(added, input="pw-ci\n", text=True, check=True)

        def answers() -> bool:
            try:
                return other.get("/v2/").status_code == 401
            except httpx2.ConnectError:
                return False

        wait_until(answers, "the proxy answers", 10.0)
        guesses = [
            attacker.get("/v2/", auth=("ci", f"guess{n}"), headers={"x-forwarded-for": f"192.0.2.{n}"}).status_code
            for n in range(7)
        ]
        right = other.get("/v2/", auth=("ci", "pw-ci"))
        metrics = other.get("/metrics", headers={"x-forwarded-for": "127.0.0.1"})

    assert guesses == [401] * 5 + [429] * 2
    assert right.status_code == 200
    assert metrics.status_code == 403


def test_images_move_from_docker_registry_with_their_digests(tmp_path: Path) -> None:
    """The page's commands copy images from docker-registry with their digests, and change nothing the second time."""
    with (
        servers.docker_registry(tmp_path / "old") as old,
        servers.boltseal(tmp_path / "data") as new,
    ):
        for tag in ("1.4.2", "1.4.3"):
            layout = image_layout(tmp_path / tag, f"words {tag}".encode())
            target = f"docker://{old.address}/shop/app:{tag}"
            run("skopeo", "copy", "--dest-tls-verify=false", layout.source, target).checked()
        commands = [
            re.sub("^boltseal ", f"{sys.executable} -m boltseal ", line)
            .replace("old.example.com:5000", old.address)
            .replace("localhost:5000", new.address)
            for line in typed_lines(page("guides/from-docker-registry.md"))
            if "docker.io" not in line
        ]
        written = [
            run("/bin/bash", "-c", line).checked() for line in [*commands, *commands] if not line.startswith("#")
        ]
        digests = [text.strip() for text in written if text.startswith("sha256:")]

        moved = httpx2.get(f"{new.url}/v2/shop/app/tags/list", trust_env=False).json()["tags"]

    assert len(commands) == 8
    assert commands[0].startswith(f"{sys.executable} -m boltseal copy --all-tags")  # the first method of the page
    assert moved == ["1.4.2", "1.4.3"]
    assert len(digests) == 4
    assert len(set(digests)) == 1


def test_the_first_method_alone_moves_a_repository(tmp_path: Path) -> None:
    """The first method of the page copies every tag with its digest, and no byte the second time."""
    with servers.docker_registry(tmp_path / "old") as old, servers.boltseal(tmp_path / "data") as new:
        digests = {}
        for tag in ("1.4.2", "1.4.3", "latest"):
            layout = image_layout(tmp_path / tag, f"words {tag}".encode())
            run("skopeo", "copy", "--dest-tls-verify=false", layout.source, f"docker://{old.address}/shop/app:{tag}")
            digests[tag] = layout.digest
        line = next(line for line in typed_lines(page("guides/from-docker-registry.md")) if "--all-tags" in line)
        line = line.replace("old.example.com:5000", old.address).replace("localhost:5000", new.address)
        first, second = (run(sys.executable, "-m", *shlex.split(line)).checked() for _ in range(2))
        found = {
            tag: httpx2.head(f"{new.url}/v2/shop/app/manifests/{tag}", trust_env=False).headers["docker-content-digest"]
            for tag in digests
        }

    assert found == digests
    assert "sent 6 blobs" in first
    assert "sent 0 blobs" in second


def test_the_commands_for_tls_and_two_users_work(tmp_path: Path) -> None:
    """Every command of the page runs in order in one shell; then what the page warns of is refused."""
    address = f"127.0.0.1:{free_port()}"
    layout = image_layout(tmp_path / "image", b"words")
    lines = typed_lines(page("operations/tls.md"))
    text = "\n".join(lines)
    for written, here in (
        ("DNS:registry.example.com", "IP:127.0.0.1"),
        ("registry.example.com:5000", address),
        ("0.0.0.0:5000", address),
        ("oci:IMAGE:app", layout.source),
    ):
        assert written in text
        text = text.replace(written, here)
    text = text.replace(
        "boltseal serve --config boltseal.toml &",
        "boltseal serve --config boltseal.toml >serve.log 2>&1 &\necho $! >serve.pid\n"
        f"for _ in $(seq 300); do (echo >/dev/tcp/{address.replace(':', '/')}) 2>/dev/null && break; sleep 0.1; done",
    )
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "boltseal"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m boltseal "$@"\n')
    script.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BOLTSEAL_")} | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "REGISTRY_AUTH_FILE": str(home / "auth.json"),
        "BOLTSEAL_STATE": str(home / "state"),
    }
    try:
        went = run("/bin/bash", "-euo", "pipefail", "-c", text, env=environment, cwd=tmp_path)
        denied = run(
            *("skopeo", "copy", layout.source, f"docker://{address}/shop/app:1.4.3"), env=environment, cwd=tmp_path
        )
    finally:
        pid = tmp_path / "boltseal-tls" / "serve.pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)

    assert went.checked().rstrip().rpartition("\n")[2] == layout.digest
    assert not denied.ok
    assert "prod may not push in shop/app" in denied.text


def test_the_commands_for_a_backup_and_its_restore_work(tmp_path: Path) -> None:
    """Every command of the backup page runs beside a registry; the restored folder has the image and passes fsck."""
    layout = image_layout(tmp_path / "image", b"words")
    with servers.boltseal(tmp_path / "data") as server:
        target = f"docker://{server.address}/shop/app:1.4.2"
        run("skopeo", "copy", "--dest-tls-verify=false", layout.source, target).checked()
        typed = []
        for line in typed_lines(page("operations/backup.md")):
            if not line.startswith("boltseal ledger recover"):  # this folder is complete
                words = line.replace("/mnt/backup/boltseal", str(tmp_path / "backup")).removeprefix("boltseal ")
                done = run(sys.executable, "-m", "boltseal", *shlex.split(words), cwd=tmp_path)
                typed.append((line.split()[2], done.ok))
    shutil.copytree(tmp_path / "data.keys", tmp_path / "new.keys", dirs_exist_ok=True)
    with servers.boltseal(tmp_path / "new") as restored:
        found = httpx2.head(f"{restored.url}/v2/shop/app/manifests/1.4.2", trust_env=False)

    assert typed == [("backup", True), ("restore", True), ("fsck", True)]
    assert found.headers["docker-content-digest"] == layout.digest
