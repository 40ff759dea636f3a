"""Images whose layers have the files that a test names, and a family of them: a base, the base updated, an app on it."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from tests.images import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Blob,
    Document,
    digest_of,
    gzipped,
    to_json,
)

RELEASE = "ID=debian\nVERSION_ID=12\n"
GLIBC = "GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\n"

Files = Mapping[str, "str | bytes | tarfile.TarInfo"]
"""Files of a layer by name: their content, or a whole header. A name that ends in a slash is a folder."""


def tar_of(files: Files) -> bytes:
    """Return a tar with these files, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, value in files.items():
            if isinstance(value, tarfile.TarInfo):
                value.name = name
                archive.addfile(value)
                continue
            member = tarfile.TarInfo(name)
            member.mode = 0o755 if name.endswith("/") else 0o644
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            content = value.encode() if isinstance(value, str) else value
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def symlink(target: str) -> tarfile.TarInfo:
    """A symbolic link."""
    member = tarfile.TarInfo()
    member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
    return member


def hard_link(target: str) -> tarfile.TarInfo:
    """A hard link."""
    member = tarfile.TarInfo()
    member.type, member.linkname = tarfile.LNKTYPE, target
    return member


def layer_of(files: Files) -> Blob:
    """A layer of OCI, compressed by gzip."""
    return Blob(gzipped(tar_of(files)), OCI_LAYER)


def image_of(
    layers: Sequence[Files | Blob],
    settings: Mapping[str, Any] | None = None,
    *,
    diff_ids: Sequence[str] | None = None,
    annotations: Mapping[str, str] | None = None,
    architecture: str = "amd64",
) -> Document:
    """An image. `diff_ids`: what its config states instead of the true ones."""
    blobs = [each if isinstance(each, Blob) else layer_of(each) for each in layers]
    stated = [digest_of(gzip.decompress(each.data)) for each in blobs] if diff_ids is None else [*diff_ids]
    body = {
        "architecture": architecture,
        "os": "linux",
        "created": "2026-11-20T00:00:00Z",
        "config": dict(settings or {}),
        "rootfs": {"type": "layers", "diff_ids": stated},
        "history": [{"created_by": diff_id} for diff_id in stated],
    }
    config = Blob(to_json(body), OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [each.descriptor() for each in blobs],
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    return Document(to_json(manifest), OCI_MANIFEST, (config, *blobs))


def index_of(*children: Document, more: Sequence[Mapping[str, Any]] = ()) -> Document:
    """An index of images for amd64, arm64, ... `more`: further entries, such as attestations."""
    entries = [
        child.descriptor(platform={"os": "linux", "architecture": architecture})
        for child, architecture in zip(children, ("amd64", "arm64", "s390x"), strict=False)
    ]
    body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, *more]}
    return Document(to_json(body), OCI_INDEX, (), children)


def push_document(client: httpx2.Client, repository: str, tag: str, document: Document) -> None:
    """Push an image or an index, with everything below it."""
    for child in document.children:
        push_document(client, repository, child.digest, child)
    for blob in document.blobs:
        session = client.post(f"/v2/{repository}/blobs/uploads/").headers["location"]
        answer = client.put(
            f"{session}{'&' if '?' in session else '?'}digest={blob.digest}",
            content=blob.data,
            headers={"content-type": "application/octet-stream"},
        )
        if answer.status_code != 201:
            raise AssertionError(answer.text)
    answer = client.put(
        f"/v2/{repository}/manifests/{tag}", content=document.raw, headers={"content-type": document.media_type}
    )
    if answer.status_code != 201:
        raise AssertionError(answer.text)


BASE_FILES: Files = {
    "etc/": "",
    "etc/os-release": RELEASE,
    "etc/app.conf": "default",
    "bin/": "",
    "bin/tool": "tool 1",
    "lib/libc.so.6": GLIBC,
    "var/lib/dpkg/status": "tool 1",
}


def base_of(*layers: Files, settings: Mapping[str, Any] | None = None, **more: Any) -> Document:
    """A base image: the files of a distribution in the first layer, and further layers."""
    return image_of([BASE_FILES, *layers], settings, **more)


def app_on(base: Document, *layers: Files, settings: Mapping[str, Any] | None = None, **more: Any) -> Document:
    """An image with further layers on a base. `settings`: those that it does not inherit."""
    inherited = json.loads(base.config.data)["config"]
    return image_of([*base.layers, *layers], inherited | dict(settings or {}), **more)
