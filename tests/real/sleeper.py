"""Images whose container sleeps until it is ended, for one platform or several, pushed directly to a registry."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import httpx2

from tests.images import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Blob, Document, digest_of, index, to_json
from tests.polling import is_signed, wait_until
from tests.programs import program

SLEEP = ("/busybox", "sleep", "100000")


def sleeper(
    words: str, architecture: str = "amd64", *, commands: Sequence[str] = (), command: Sequence[str] = SLEEP
) -> Document:
    """Return an image with `words` in a label that sleeps. The program is this machine's, whatever `architecture` says.

    `commands`: further programs in /bin, such as `true` for a health check. `command`: the command in place of
    sleeping.
    """
    layer, diff_id = _layer(tuple(commands))
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": "2026-01-02T03:04:05Z",
        "config": {"Cmd": list(command), "Labels": {"words": words}},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "2026-01-02T03:04:05Z", "created_by": words}],
    }
    made = Blob(to_json(config), OCI_CONFIG)
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": made.descriptor(), "layers": [layer.descriptor()]}
    return Document(json.dumps(body).encode(), OCI_MANIFEST, (made, layer))


@cache
def _layer(commands: tuple[str, ...]) -> tuple[Blob, str]:
    """Return the layer with the program and links to it, and its diff ID; most images have the same one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo("busybox")
        content = Path(program("busybox")).read_bytes()
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
        for name in commands:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "/busybox"
            archive.addfile(link)
    tar = buffer.getvalue()
    return Blob(gzip.compress(tar, 1, mtime=0), OCI_LAYER), digest_of(tar)


def sleepers(words: str) -> Document:
    """Return an index of such images for amd64 and arm64."""
    return index(sleeper(words, "amd64"), sleeper(words, "arm64"))


def publish(registry: str, repository: str, tag: str, document: Document) -> str:
    """Push a document under a tag with everything it references; return its digest.

    If the registry has a ledger, wait until the entry is signed: commands prove a history by what is signed.
    """
    url = f"http://{registry}/v2/{repository}"
    with httpx2.Client(timeout=60, trust_env=False) as client:
        _upload(client, url, document)
        entry = _put(client, url, tag, document).headers.get("boltseal-ledger-index")
        if entry is not None:
            checkpoint = httpx2.URL(url).join("/ledger/checkpoint")
            wait_until(lambda: is_signed(client.get(checkpoint), int(entry) + 1), f"entry {entry} is signed")
    return document.digest


def _upload(client: httpx2.Client, url: str, document: Document) -> None:
    for child in document.children:
        _upload(client, url, child)
        _put(client, url, child.digest, child)
    for blob in document.blobs:
        if client.head(f"{url}/blobs/{blob.digest}").status_code == 200:
            continue
        at = client.post(f"{url}/blobs/uploads/").raise_for_status().headers["location"]
        client.put(httpx2.URL(url).join(at), params={"digest": blob.digest}, content=blob.data).raise_for_status()


def _put(client: httpx2.Client, url: str, reference: str, document: Document) -> httpx2.Response:
    headers = {"content-type": document.media_type}
    return client.put(f"{url}/manifests/{reference}", content=document.raw, headers=headers).raise_for_status()
