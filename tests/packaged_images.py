"""Images with files of our choice in their layers, such as package databases, and SBOMs for them."""

from __future__ import annotations

import gzip
import io
import sqlite3
import struct
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from tests.images import OCI_CONFIG, OCI_EMPTY, OCI_LAYER, OCI_MANIFEST, Blob, Document, digest_of, gzipped, to_json

DPKG = "var/lib/dpkg/status"
APK = "lib/apk/db/installed"
SPDX_TYPE = "application/spdx+json"
CYCLONEDX_TYPE = "application/vnd.cyclonedx+json"


def dpkg(**versions: str) -> bytes:
    """Return a dpkg status file with these packages."""
    return "\n".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\nDescription: x\n more\n"
        for name, version in versions.items()
    ).encode()


def apk(**versions: str) -> bytes:
    """Return apk's list of installed packages."""
    return "\n".join(f"C:Q1x=\nP:{name}\nV:{version}\nA:x86_64\n" for name, version in versions.items()).encode()


def rpm_header(**tags: str | int) -> bytes:
    """Return the header of a package in rpm's database: `name`, `version`, `release` and `epoch`."""
    numbers = {"name": 1000, "version": 1001, "release": 1002, "epoch": 1003}
    entries, data = b"", b""
    for name, value in tags.items():
        if isinstance(value, int):
            data += b"\0" * (-len(data) % 4)
            entries += struct.pack(">IIII", numbers[name], 4, len(data), 1)
            data += struct.pack(">I", value)
        else:
            entries += struct.pack(">IIII", numbers[name], 6, len(data), 1)
            data += value.encode() + b"\0"
    return struct.pack(">II", len(tags), len(data)) + entries + data


def rpm(*headers: bytes, schema: str = "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)") -> bytes:
    """Return rpm's SQLite database with these headers, marked as one with a write-ahead log, as rpm writes it."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(schema)
        for header in headers:
            database.execute("INSERT INTO Packages (blob) VALUES (?)", (header,))
        database.commit()
        raw = database.serialize()
    return raw[:18] + b"\2\2" + raw[20:]


def layer_of(files: Mapping[str, bytes | None], mode: int = 0o644) -> Blob:
    """Return a layer with these files; None makes a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mode = mode
            if content is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(content)
            archive.addfile(member, None if content is None else io.BytesIO(content))
    return Blob(gzipped(buffer.getvalue()), OCI_LAYER)


def image_of(
    *layers: Blob,
    labels: Mapping[str, str] | None = None,
    architecture: str = "amd64",
    diff_ids: Sequence[str] | None = None,
    created: str = "2026-11-20T00:00:00Z",
    **more: Any,
) -> Document:
    """Return an image with these layers. `diff_ids`: those of the config, if it states others."""
    unpacked = diff_ids or [digest_of(gzip.decompress(each.data)) for each in layers]
    config = Blob(
        to_json(
            {
                "architecture": architecture,
                "os": "linux",
                "created": created,
                "config": {"Labels": dict(labels or {})},
                "rootfs": {"type": "layers", "diff_ids": list(unpacked)},
                "history": [{"created": created, "created_by": "x"} for _ in layers],
            }
        ),
        OCI_CONFIG,
    )
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [each.descriptor() for each in layers],
        **more,
    }
    return Document(to_json(body), OCI_MANIFEST, (config, *layers))


def sbom_of(subject: Document, document: bytes, media_type: str = SPDX_TYPE) -> Document:
    """Return an artifact with an SBOM, whose subject is an image."""
    empty, content = Blob(b"{}", OCI_EMPTY), Blob(document, media_type)
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": media_type,
        "config": empty.descriptor(),
        "layers": [content.descriptor()],
        "subject": subject.descriptor(),
    }
    return Document(to_json(body), OCI_MANIFEST, (empty, content))


def spdx(**versions: str) -> bytes:
    """Return an SPDX document that describes an image with these packages of npm."""
    packages = [
        {
            "SPDXID": f"SPDXRef-{name}",
            "name": name,
            "versionInfo": version,
            "externalRefs": [{"referenceType": "purl", "referenceLocator": f"pkg:npm/{name}@{version}"}],
        }
        for name, version in versions.items()
    ]
    image = {"SPDXID": "SPDXRef-image", "name": "app", "versionInfo": "1"}
    return to_json({"spdxVersion": "SPDX-2.3", "documentDescribes": ["SPDXRef-image"], "packages": [image, *packages]})


def cyclonedx(**versions: str) -> bytes:
    """Return a CycloneDX document with these packages of Debian."""
    components = [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:deb/debian/{name}@{version}"}
        for name, version in versions.items()
    ]
    return to_json({"bomFormat": "CycloneDX", "specVersion": "1.5", "components": components})
