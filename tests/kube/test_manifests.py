"""Manifests: parsed as kubectl parses them, every image by digest, names of jobs, differences without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.deploy.compose_model import LockMismatch
from boltseal.deploy.kube.manifest_objects import (
    ManifestInvalid,
    common_name,
    for_release,
    job_name,
    object_id_of,
    parse_objects,
    with_namespaces,
)
from boltseal.deploy.kube.object_diff import changed_paths, object_change
from boltseal.deploy.kube.pinned_manifests import PinnedManifests, pinned, read_manifests
from boltseal.lockfile.document import Lock, LockedImage
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import OCI_INDEX
from boltseal.oci.reference import Reference

NAME = "registry.example.com/shop/web:1.0"
DIGEST = Digest.of(b"web")
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: app, image: %s}\n"


def _pinned(folder: Path, text: str, *locked: str) -> PinnedManifests:
    (folder / "app.yaml").write_text(text)
    images = tuple(LockedImage(Reference.parse(each), DIGEST, 0, OCI_INDEX) for each in locked)
    manifests = read_manifests(folder, ["app.yaml"], lambda: b"", {})
    return pinned(manifests, Lock(images) if locked else None, {})


def test_values_are_those_that_kubectl_reads() -> None:
    """Times and numbers of base 60 are texts, yes and on are booleans, 0644 is octal."""
    text = "kind: A\nt: 12:30:45\nd: 2020-01-01\ny: yes\no: on\nm: 0644\nx: 0x10\nf: 1.5\ne: 1e3\nn: ~\nq: '1'\nv: 1.2.3\n80: p\n"

    assert parse_objects(text) == [
        {
            "kind": "A", "t": "12:30:45", "d": "2020-01-01", "true": True, "o": True, "m": 420, "x": 16, "f": 1.5, "e": 1000,
            "false": None, "q": "1", "v": "1.2.3", "80": "p",
        }
    ]  # fmt: skip


def test_a_key_that_is_there_twice_is_refused() -> None:
    """Only one of its values would be applied."""
    with pytest.raises(ManifestInvalid, match='line 3: the key "replicas" is there twice'):
        parse_objects("kind: A\nreplicas: 1\nreplicas: 2\n")


def test_merged_keys_may_be_overridden() -> None:
    """A key of a merge is no second one."""
    found = parse_objects("kind: A\nbase: &b {x: 1, z: 2}\nspec: {<<: *b, x: 3}\n")

    assert found[0]["spec"] == {"x": 3, "z": 2}


def test_lists_and_streams_are_objects() -> None:
    """Objects of a stream and of lists, also of lists in lists, are read in their order."""
    text = "---\n---\nkind: A\n---\nkind: List\nitems:\n- kind: B\n- {kind: CList, items: [{kind: C}]}\n"

    assert [each["kind"] for each in parse_objects(text)] == ["A", "B", "C"]


@pytest.mark.parametrize("text", ["- 1", "kind: 3", "just text", "a: ["])
def test_what_is_no_object_is_refused(text: str) -> None:
    """A text that is no object is one line of a message."""
    with pytest.raises(ManifestInvalid):
        parse_objects(text)


def test_names_and_namespaces() -> None:
    """An object without a namespace gets that of the release, one of the whole cluster has none, and two are one too many."""
    documents = parse_objects("kind: A\nmetadata: {name: x}\n---\nkind: B\nmetadata: {name: x, namespace: other}\n")
    found = with_namespaces(documents, "shop", [("None", "B")])

    assert [object_id_of(each)[2:] for each in found] == [("shop", "x"), ("", "x")]
    with pytest.raises(ManifestInvalid, match="is there twice"):
        with_namespaces([*documents, documents[0]], "shop", [])
    with pytest.raises(ManifestInvalid, match="no generateName"):
        with_namespaces(parse_objects("kind: Job\nmetadata: {generateName: x-}\n"), "shop", [])


def test_each_release_has_jobs_of_its_own() -> None:
    """A Job's name ends with the release's number; a long one is shortened, and stays distinct."""
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "migrate"}}
    cron = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "migrate"}}

    assert [each["metadata"]["name"] for each in for_release([job, cron], 7)] == ["migrate-r7", "migrate"]
    assert common_name("Job", "migrate-r7") == "migrate"
    long = [job_name("x" * 70 + end, "-r12") for end in "ab"]
    assert (len(set(long)), {len(each) for each in long}) == (2, {63})


def test_every_image_gets_its_digest(tmp_path: Path) -> None:
    """The digest of the lock is written behind the tag; a pin of the file without an entry in the lock stays."""
    assert _pinned(tmp_path, POD % NAME, NAME).documents[0]["spec"]["containers"][0]["image"] == f"{NAME}@{DIGEST}"
    own = f"{NAME}@{Digest.of(b'other')}"
    assert _pinned(tmp_path, POD % own).documents[0]["spec"]["containers"][0]["image"] == own


@pytest.mark.parametrize(
    ("image", "locked", "message"),
    [
        (NAME, "", "is not pinned, and there is no boltseal.lock"),
        (NAME, "registry.example.com/shop/web:2.0", "is not in boltseal.lock"),
        (f"{NAME}@{Digest.of(b'other')}", NAME, "boltseal.lock has another digest"),
        ("'{{ .Values.image }}'", NAME, "a parameter or template"),
    ],
)
def test_an_image_without_a_digest_is_refused(tmp_path: Path, image: str, locked: str, message: str) -> None:
    """Nothing is applied unless every image has one digest."""
    with pytest.raises(LockMismatch, match=message):
        _pinned(tmp_path, POD % image, *([locked] if locked else []))


def test_values_of_secrets_are_never_shown() -> None:
    """Neither the difference of two releases nor that of a dry run has a value of a Secret."""
    one, two = (
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"word": word}}
        for word in ("b25l", "dHdv")
    )
    change = object_change("secret/s", one, two)

    assert list(changed_paths(one, two)) == [("data.word", "set", "changed")]
    assert "b25l" not in "".join(change.diff)
    assert "dHdv" not in "".join(change.diff)
    assert change.status == "changed"
