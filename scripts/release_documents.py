"""Write the documents of a release: an SBOM (CycloneDX 1.6) and provenance (an in-toto statement, SLSA provenance v1).

    scripts/release_documents.py dist FOLDER --revision COMMIT
    scripts/release_documents.py image LAYOUT:TAG FOLDER --revision COMMIT

`dist`: for the wheel and the sdist in FOLDER; its SBOM lists requirements.lock. `image`: for an image in an OCI layout; its
SBOM lists the Python and Debian packages that its layers contain, and FOLDER gets both documents.

Rules kept: the documents depend only on the artifacts, the lock, COMMIT and SOURCE_DATE_EPOCH, so that a repeated build gives
the same bytes. They have no path, user or host of the machine. They are unsigned: docs/releasing.md says who signs what.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import tarfile
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import Any, Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT: Final = Path(__file__).resolve().parents[1]
LOCK: Final = ROOT / "requirements.lock"
BUILDER: Final = "urn:boltseal:builder:local"
"""The builder's identity without --builder: a machine of the person who releases."""
_SBOM_NAMESPACE: Final = uuid.UUID("6f0e3c3a-6f0c-5a52-9d39-0d3ee4a0b9b2")


def main() -> None:
    """Parse the command line and write the documents."""
    parser = argparse.ArgumentParser(description="Write the SBOM and the provenance of a release.")
    parser.add_argument("kind", choices=("dist", "image"))
    parser.add_argument("artifact", help="folder with wheel and sdist, or LAYOUT:TAG")
    parser.add_argument("folder", nargs="?", type=Path, help="for an image: where the documents go")
    parser.add_argument("--revision", required=True, help="the commit that was built")
    parser.add_argument("--builder", default=BUILDER, help="URI of the build platform")
    arguments = parser.parse_args()
    release = Release(arguments.revision, arguments.builder, int(os.environ["SOURCE_DATE_EPOCH"]))
    if arguments.kind == "dist":
        write_dist_documents(Path(arguments.artifact), release)
    else:
        layout, _, tag = arguments.artifact.rpartition(":")
        write_image_documents(Image.read(Path(layout), tag), arguments.folder, release)


@dataclass(frozen=True, slots=True)
class Release:
    """What a release was built from. `epoch_s`: the time of the commit, which all documents have."""

    revision: str
    builder: str
    epoch_s: int


# --- wheel and sdist ---


def write_dist_documents(folder: Path, release: Release) -> None:
    """Write NAME.cdx.json and NAME.intoto.json beside a wheel and an sdist."""
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    name, version = wheel.name.split("-")[:2]
    subjects = [(path.name, sha256_of(path)) for path in (sdist, wheel)]
    product = Component(
        type=ComponentType.APPLICATION,
        name=name,
        version=version,
        bom_ref=wheel.name,
        purl=PackageURL("pypi", None, name, version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=subjects[1][1])],
    )
    sbom = sbom_of(product, locked_packages(LOCK.read_text(encoding="utf-8")), release)
    statement = provenance(subjects, "urn:boltseal:build-dist:v1", {"script": "scripts/build-dist"}, [], release)
    (folder / f"{name}-{version}.cdx.json").write_text(sbom, encoding="utf-8")
    (folder / f"{name}-{version}.intoto.json").write_text(statement, encoding="utf-8")


def locked_packages(lock: str) -> list[Component]:
    """Return the packages of a lock of pip."""
    pins = re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", lock, re.MULTILINE)
    return [python_package(name, version) for name, version in pins]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- image ---


@dataclass(frozen=True, slots=True)
class Image:
    """An image of an OCI layout. `digest`: of its manifest; `files`: those of its root file system that list packages."""

    digest: str
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    files: Mapping[str, bytes]

    @classmethod
    def read(cls, layout: Path, tag: str) -> Image:
        """Read the image that a layout has under a tag."""
        index = json.loads((layout / "index.json").read_bytes())
        named = "org.opencontainers.image.ref.name"
        (entry,) = [each for each in index["manifests"] if each.get("annotations", {}).get(named) == tag]
        manifest = json.loads(_blob(layout, entry["digest"]).read_bytes())
        config = json.loads(_blob(layout, manifest["config"]["digest"]).read_bytes())
        files: dict[str, bytes] = {}
        for layer in manifest["layers"]:
            _apply(files, _blob(layout, layer["digest"]))
        return cls(entry["digest"], manifest, config, files)


def write_image_documents(image: Image, folder: Path, release: Release) -> None:
    """Write sbom.cdx.json and provenance.intoto.json of an image."""
    algorithm, _, value = image.digest.partition(":")
    version = image.config["config"]["Labels"]["org.opencontainers.image.version"]
    product = Component(
        type=ComponentType.CONTAINER,
        name="boltseal",
        version=version,
        bom_ref=image.digest,
        purl=PackageURL("oci", None, "boltseal", image.digest),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=value)],
    )
    base = {key.rpartition(".base.")[2]: text for key, text in image.manifest["annotations"].items() if ".base." in key}
    of_base = {"uri": f"docker://{base['name']}", "digest": dict([base["digest"].split(":")])}
    parameters = {"script": "scripts/build-image", "containerfile": "packaging/Containerfile", "base": base["name"]}
    kind = "urn:boltseal:build-image:v1"
    statement = provenance([("boltseal", value)], kind, parameters, [of_base], release, algorithm)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sbom.cdx.json").write_text(sbom_of(product, packages_of(image.files), release), encoding="utf-8")
    (folder / "provenance.intoto.json").write_text(statement, encoding="utf-8")


def packages_of(files: Mapping[str, bytes]) -> list[Component]:
    """Return the Python and Debian packages that the files of a root file system list."""
    system = dict(line.partition("=")[::2] for line in files["usr/lib/os-release"].decode().splitlines())
    release = system["VERSION_ID"].strip('"')
    found = [Component(type=ComponentType.OPERATING_SYSTEM, name=system["ID"], version=release, bom_ref="os")]
    for path, content in files.items():
        if path.endswith("/METADATA"):
            metadata = _headers(content.decode())
            found.append(python_package(metadata["Name"], metadata["Version"], metadata["License-Expression"]))
    for paragraph in files["var/lib/dpkg/status"].decode().strip().split("\n\n"):
        package = _headers(paragraph)
        if package["Status"] == "install ok installed":
            qualifiers = {"arch": package["Architecture"], "distro": f"{system['ID']}-{release}"}
            purl = PackageURL("deb", system["ID"], package["Package"], package["Version"], qualifiers)
            found.append(
                Component(name=package["Package"], version=package["Version"], purl=purl, bom_ref=purl.to_string())
            )
    return found


def _headers(text: str) -> Message:
    return Parser().parsestr(text, headersonly=True)


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _apply(files: dict[str, bytes], layer: Path) -> None:
    """Add the files of a layer that list packages, and remove those that it deletes (OCI image specification, layers)."""
    with tarfile.open(layer) as tar:
        members = {str(PurePosixPath(member.name)): member for member in tar}
        for name in members:
            folder, _, last = name.rpartition("/")
            if last.startswith(".wh."):
                gone = folder if last == ".wh..wh..opq" else f"{folder}/{last.removeprefix('.wh.')}"
                for path in [each for each in files if each == gone or each.startswith(f"{gone}/")]:
                    del files[path]
        for name, member in members.items():
            if name in ("var/lib/dpkg/status", "usr/lib/os-release") or name.endswith(".dist-info/METADATA"):
                content = tar.extractfile(member)
                files[name] = content.read() if content is not None else b""


# --- both ---


def python_package(name: str, version: str, license_expression: str | None = None) -> Component:
    """Return a package of the Python Package Index."""
    purl = PackageURL("pypi", None, re.sub(r"[-_.]+", "-", name).lower(), version)
    licenses = [LicenseFactory().make_from_string(license_expression)] if license_expression else []
    return Component(name=name, version=version, purl=purl, bom_ref=purl.to_string(), licenses=licenses)


def sbom_of(product: Component, components: Iterable[Component], release: Release) -> str:
    """Return the SBOM of a product as CycloneDX in JSON. Its serial number is derived from its content."""
    bom = Bom(components=components)
    bom.metadata = BomMetaData(component=product, timestamp=datetime.fromtimestamp(release.epoch_s, UTC))
    bom.register_dependency(product, bom.components)
    content = f"{product.bom_ref.value} {sorted(str(each.bom_ref.value) for each in bom.components)}"
    bom.serial_number = uuid.uuid5(_SBOM_NAMESPACE, content)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def provenance(
    subjects: Iterable[tuple[str, str]],
    build_type: str,
    parameters: Mapping[str, str],
    dependencies: Iterable[Mapping[str, Any]],
    release: Release,
    algorithm: str = "sha256",
) -> str:
    """Return an in-toto statement with the predicate https://slsa.dev/provenance/v1. `subjects`: names and digests."""
    source = {"name": "source", "digest": {"gitCommit": release.revision}}
    lock = {"name": LOCK.name, "digest": {"sha256": sha256_of(LOCK)}}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {algorithm: digest}} for name, digest in subjects],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": build_type,
                "externalParameters": {**parameters, "sourceDateEpoch": release.epoch_s},
                "resolvedDependencies": [source, lock, *dependencies],
            },
            "runDetails": {"builder": {"id": release.builder}},
        },
    }
    return json.dumps(statement, indent=2) + "\n"


if __name__ == "__main__":
    main()
