"""Images for tests, as bytes and as the OCI image layouts from which tools copy.

An image here has one file, `app`. Everything is derived from its content, so that making an image twice gives the
same digests. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

#: The file in every image of these tests, from which its content is read back.
APP = "app"


@dataclass(frozen=True, slots=True)
class Layout:
    """An image layout on disk. `source`: its name for skopeo; `children`: an index's manifests."""

    folder: Path
    digest: str
    children: Mapping[str, str]

    @property
    def source(self) -> str:
        """Return the only image of the layout."""
        return f"oci:{self.folder}:app"


def app_tar(content: bytes) -> bytes:
    """Return a tar archive of one file with `content`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo(APP)
        entry.size, entry.mode = len(content), 0o755
        tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def app_in_tar(archive: bytes) -> bytes:
    """Return the content of the one file in such an archive, or in one that an engine exported."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(APP)
        assert file is not None, f"{APP} is not a regular file in {tar.getnames()}"
        return file.read()


def image_layout(folder: Path, content: bytes) -> Layout:
    """Create a layout with one image."""
    descriptor = _image(folder, content, "amd64")
    return _finish(folder, descriptor, {})


def index_layout(folder: Path, contents: Mapping[str, bytes]) -> Layout:
    """Create a layout with one index: architecture -> content of its image."""
    children = {
        arch: _image(folder, content, arch) | {"platform": {"architecture": arch, "os": "linux"}}
        for arch, content in contents.items()
    }
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(children.values())}
    descriptor = _blob(folder, INDEX, _json(index))
    return _finish(folder, descriptor, {arch: str(child["digest"]) for arch, child in children.items()})


def app_in_layout(folder: Path) -> bytes:
    """Return the content of the one image that a tool wrote to `folder`."""
    (image,) = json.loads((folder / "index.json").read_bytes())["manifests"]
    manifest = json.loads(_stored(folder, image["digest"]))
    (layer,) = manifest["layers"]
    return app_in_tar(gzip.decompress(_stored(folder, layer["digest"])))


def _image(folder: Path, content: bytes, architecture: str) -> dict[str, object]:
    """Write an image and return its descriptor."""
    archive = app_tar(content)
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [_digest(archive)]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _blob(folder, CONFIG, _json(config)),
        "layers": [_blob(folder, LAYER, gzip.compress(archive, compresslevel=1, mtime=0))],
    }
    return _blob(folder, MANIFEST, _json(manifest))


def _finish(folder: Path, descriptor: dict[str, object], children: Mapping[str, str]) -> Layout:
    named = descriptor | {"annotations": {"org.opencontainers.image.ref.name": "app"}}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [named]}))
    return Layout(folder, str(descriptor["digest"]), children)


def _blob(folder: Path, media_type: str, data: bytes) -> dict[str, object]:
    digest = _digest(data)
    path = folder / "blobs" / "sha256" / digest.removeprefix("sha256:")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _stored(folder: Path, digest: str) -> bytes:
    algorithm, _, name = digest.partition(":")
    return (folder / "blobs" / algorithm / name).read_bytes()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
