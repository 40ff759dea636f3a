"""A demonstration in a minute, without Docker: a published tag keeps its digest.

Starts a registry of its own in a temporary folder on a free port, makes a small image from files of this machine,
publishes it, tries to move its tag in every way that a client has, and pulls it back. It sends plain HTTP requests as the
distribution spec describes them, so that every step is what docker, podman or skopeo would do.

    scripts/demo.py [CONFIG]    CONFIG: settings for its registry; with rules that make every tag mutable, it must fail

Exits 0 if every step had the expected result, 1 at the first one that had not, 130 when interrupted. It leaves no files.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

REPOSITORY = "shop/app"
TAG = "1.4.2"
PROGRAMS = ("/bin/sh", "/bin/cat", "/bin/ls", "/usr/bin/env")
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
START_TIMEOUT_S = 30.0


class Otherwise(Exception):
    """A step did not have the expected result."""


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest and its two blobs, as bytes."""

    manifest: bytes
    config: bytes
    layer: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def blobs(self) -> tuple[bytes, bytes]:
        return self.config, self.layer


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def short(digest: str) -> str:
    return digest[: len("sha256:") + 12]


# --- what the person sees ---------------------------------------------------------------------------------------------

WIDTH, INDENT = 80, len("  refused  ")
COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURED else text


def step(text: str) -> None:
    print(f"\n{paint(text, '1')}", flush=True)


def outcome(text: str, *, refused: bool = False) -> None:
    lines = textwrap.wrap(text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False)
    verdict = paint("refused" if refused else "ok     ", "33" if refused else "32")
    print(f"  {verdict}  " + f"\n{' ' * INDENT}".join(lines), flush=True)


# --- the image --------------------------------------------------------------------------------------------------------


def files_of_this_machine() -> dict[str, Path]:
    """Return a shell and a few programs with the libraries they need: name inside the image -> file here."""
    found: dict[str, Path] = {}
    for program in map(Path, PROGRAMS):
        if not program.exists():
            continue
        found[str(program).lstrip("/")] = program.resolve()
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+)", listed):
            found[library.lstrip("/")] = Path(library).resolve()
    if not found:
        raise Otherwise(f"none of {', '.join(PROGRAMS)} is on this machine; there is nothing to make an image of")
    return found


def build(files: Mapping[str, Path], note: str) -> Image:
    """Return an image with one layer, the same bytes for the same files and note on every run."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in sorted(files.items()):
            _add(tar, name, path.read_bytes(), mode=0o755)
        _add(tar, "etc/note", note.encode(), mode=0o644)
    layer = gzip.compress(packed.getvalue(), compresslevel=6, mtime=0)
    config = _json(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
            "config": {"Cmd": ["/bin/cat", "/etc/note"]},
            "os": "linux",
            "rootfs": {"diff_ids": [digest_of(packed.getvalue())], "type": "layers"},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": LAYER_TYPE, "digest": digest_of(layer), "size": len(layer)}],
        }
    )
    return Image(manifest, config, layer)


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# --- the registry -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def registry(folder: Path, port: int, config: str | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run `boltseal serve` on its own data folder until the block is left."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BOLTSEAL_")}
    log = folder / "log"
    arguments = ["serve", "--listen", f"127.0.0.1:{port}", "--data", str(folder / "data")]
    if config is not None:
        arguments += ["--config", config]
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "boltseal", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=clean,
            start_new_session=True,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/readyz", log)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=START_TIMEOUT_S)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise Otherwise(f"the registry did not start; its last words:\n{log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def expect(answer: httpx2.Response, status: int) -> httpx2.Response:
    if answer.status_code != status:
        asked = f"{answer.request.method} {answer.request.url.path}"
        raise Otherwise(f"{asked} should answer {status}, and answered {answer.status_code}: {answer.text[:500]}")
    return answer


def message_of(answer: httpx2.Response) -> str:
    """Return what docker prints after `denied:`."""
    error = answer.json()["errors"][0]
    if error["code"] != "DENIED":
        raise Otherwise(f"a refusal should carry the code DENIED, and carries {error['code']}")
    return str(error["message"])


def push_blobs(client: httpx2.Client, image: Image) -> None:
    """Push the missing blobs, as every client does first."""
    for blob in image.blobs:
        digest = digest_of(blob)
        if client.head(f"/v2/{REPOSITORY}/blobs/{digest}").status_code == 200:
            continue
        session = expect(client.post(f"/v2/{REPOSITORY}/blobs/uploads/"), 202).headers["location"]
        expect(client.put(client.base_url.join(session).copy_add_param("digest", digest), content=blob), 201)


def push_tag(client: httpx2.Client, image: Image) -> httpx2.Response:
    return client.put(
        f"/v2/{REPOSITORY}/manifests/{TAG}", content=image.manifest, headers={"content-type": MANIFEST_TYPE}
    )


def pull(client: httpx2.Client) -> Image:
    """Return the image that the tag resolves to, its digests checked as a client checks them."""
    answer = expect(client.get(f"/v2/{REPOSITORY}/manifests/{TAG}", headers={"accept": MANIFEST_TYPE}), 200)
    names = answer.json()
    wanted = [names["config"]["digest"], *(layer["digest"] for layer in names["layers"])]
    config, layer = (expect(client.get(f"/v2/{REPOSITORY}/blobs/{digest}"), 200).content for digest in wanted)
    sent = [digest_of(answer.content), digest_of(config), digest_of(layer)]
    if sent != [answer.headers["docker-content-digest"], *wanted]:
        raise Otherwise("the registry sent bytes that do not have the digest it names")
    return Image(answer.content, config, layer)


def expect_unchanged(client: httpx2.Client, image: Image) -> None:
    if pull(client) != image:
        raise Otherwise(f"{REPOSITORY}:{TAG} is not byte for byte what was published")


# --- the story --------------------------------------------------------------------------------------------------------


def story(folder: Path, config: str | None) -> None:
    port = free_port()
    name = f"localhost:{port}/{REPOSITORY}:{TAG}"
    files = files_of_this_machine()
    first = build(files, "the release\n")
    other = build(files, "not the release\n")

    with (
        registry(folder, port, config) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        step(f"publish {name}, made of {len(files)} files of this machine")
        push_blobs(client, first)
        expect(push_tag(client, first), 201)
        outcome(f"{TAG} is {short(first.digest)}, {sum(map(len, first.blobs)) / 1e6:.1f} MB")

        step("publish other bytes under the same tag")
        push_blobs(client, other)
        outcome(f"denied: {message_of(expect(push_tag(client, other), 409))}", refused=True)

        step("delete the tag, to publish it anew")
        outcome(f"denied: {message_of(expect(client.delete(f'/v2/{REPOSITORY}/manifests/{TAG}'), 405))}", refused=True)

        step("publish the same bytes again, as a repeated build does")
        expect(push_tag(client, first), 201)
        outcome("accepted: it is the same image, so nothing changes")

        step("pull it back")
        expect_unchanged(client, first)
        outcome("manifest, config and layer are byte for byte what was published")

        step("kill the registry (SIGKILL) and start it again")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    with registry(folder, port, config), httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        expect_unchanged(client, first)
        expect(push_tag(client, other), 409)
        outcome("the tag has its digest, and other content is refused")

    print(f"\n{name}@{first.digest}")


def main() -> int:
    try:
        with tempfile.TemporaryDirectory(prefix="boltseal-demo-") as folder:
            story(Path(folder), sys.argv[1] if len(sys.argv) > 1 else None)
    except Otherwise as found:
        print(f"\n{paint('unexpected result', '31')}: {found}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
