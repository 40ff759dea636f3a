"""`boltseal rebase` with a listening registry: what it pushes, records and refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.cli.program import Run, call
from tests.images import OCI_INDEX, OCI_MANIFEST, Document, artifact, digest_of
from tests.servers import Server
from tests.tar_images import (
    GLIBC,
    Files,
    app_on,
    base_of,
    hard_link,
    image_of,
    index_of,
    layer_of,
    push_document,
    symlink,
)

NAME, DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
OLD = base_of({"usr/lib/tls.so": "tls 1"}, settings={"Env": ["PATH=/bin", "TLS=1"], "Cmd": ["sh"]})
NEW = base_of(
    {"usr/lib/tls.so": "tls 2"}, {"usr/lib/more": "m"}, settings={"Env": ["PATH=/bin", "TLS=2"], "Cmd": ["sh"]}
)
OWN: Files = {"app/": "", "app/main": "main", "etc/app.conf": "mine"}


class Family:
    """A registry with a base image that moves, and an app on it."""

    def __init__(self, server: Server) -> None:
        self.address = server.address
        self.client = httpx2.Client(base_url=server.url, trust_env=False)
        self.base, self.app = f"{server.address}/base/os:latest", f"{server.address}/shop/app:1.4.2"

    def push(self, document: Document, repository: str = "shop/app", tag: str = "1.4.2") -> None:
        push_document(self.client, repository, tag, document)

    def move(self, new: Document = NEW) -> None:
        self.push(new, "base/os", "latest")

    def based(self, *layers: Files, old: Document = OLD, new: Document = NEW, **more: Any) -> None:
        """Push the old base, an app that names it, and the new base."""
        self.push(old, "base/os", "latest")
        self.push(app_on(old, *layers, annotations={NAME: self.base, DIGEST: old.digest}, **more))
        self.move(new)

    def rebase(self, *arguments: str, tag: str = "1.4.2.1") -> Run:
        return call("rebase", self.app, "--onto", self.base, "--tag", tag, *arguments)

    def refusal(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Rebase, check that nothing is tagged, and return the exit code and the first result."""
        ran = self.rebase("--json", *arguments)

        assert self.client.get("/v2/shop/app/manifests/1.4.2.1").status_code == 404
        return ran.code, ran.json["results"][0]

    def document(self, reference: str = "1.4.2.1", repository: str = "shop/app") -> dict[str, Any]:
        accept = f"{OCI_MANIFEST}, {OCI_INDEX}"
        answer = self.client.get(f"/v2/{repository}/manifests/{reference}", headers={"accept": accept})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def records(self) -> list[dict[str, str]]:
        """Return the facts of the records in the ledger."""
        entries = self.client.get("/v2/shop/app/_boltseal/records").json()["entries"]
        return [json.loads(each["line"])["extra"] for each in entries]

    def config(self, reference: str = "1.4.2.1") -> dict[str, Any]:
        digest = self.document(reference)["config"]["digest"]
        found: dict[str, Any] = self.client.get(f"/v2/shop/app/blobs/{digest}").json()
        return found


@pytest.fixture
def family(server: Server) -> Iterator[Family]:
    made = Family(server)
    yield made
    made.client.close()


def test_the_own_layers_are_put_on_the_new_base(family: Family) -> None:
    """The result has the new base's layers and the image's own as they were, and the settings of both."""
    family.based(OWN, settings={"Env": ["PATH=/bin", "TLS=1", "APP=1"], "Cmd": ["/app/main"]})
    ran = family.rebase()
    manifest, config = family.document(), family.config()

    assert ran.code == 0, ran.err
    assert (
        ran.out.splitlines()[-1]
        == f"{family.address}/shop/app:1.4.2.1@{digest_of(json.dumps(manifest, separators=(',', ':')).encode())}"
    )
    assert [layer["digest"] for layer in manifest["layers"]] == [
        *(each.digest for each in NEW.layers),
        layer_of(OWN).digest,
    ]
    assert config["config"]["Env"] == ["PATH=/bin", "TLS=2", "APP=1"]
    assert config["config"]["Cmd"] == ["/app/main"]
    assert len(config["history"]) == len(config["rootfs"]["diff_ids"]) == 4
    labels = config["config"]["Labels"]
    assert (labels[NAME], labels[DIGEST]) == (family.base, NEW.digest)
    assert labels["boltseal.rebased-from"] == digest_of(family.client.get("/v2/shop/app/manifests/1.4.2").content)
    assert manifest["annotations"] == {NAME: family.base, DIGEST: NEW.digest}


def test_the_result_is_recorded_and_current(family: Family) -> None:
    """The ledger records base, former base and former image, and `outdated` says current by that record."""
    family.based(OWN)
    before = call("outdated", family.app, "--window", "0s")
    ran = family.rebase()
    after = call("outdated", f"{family.address}/shop/app:1.4.2.1", "--window", "0s", "--json").json["results"][0]
    [recorded] = family.records()

    assert (before.code, ran.code) == (1, 0)
    assert f"boltseal rebase {family.app} --onto {family.base} --scheme revision --dry-run" in before.err
    assert "of the ledger records its base" in ran.err
    assert (after["status"], after["by"], after["base"]) == ("current", "a built entry of the ledger", family.base)
    assert (recorded["base.digest"], recorded["base.was"]) == (NEW.digest, OLD.digest)


def test_a_second_run_changes_nothing(family: Family) -> None:
    """A rebase that is repeated finds its result under the tag, and records nothing twice."""
    family.based(OWN)
    first, second = family.rebase(), family.rebase("--json")

    assert (first.code, second.code) == (0, 0)
    assert second.json["results"][0]["status"] == "unchanged"
    assert len(family.records()) == 1


def test_a_revision_of_the_images_tag_is_made_once(family: Family) -> None:
    """With `--scheme revision` the result is the next revision of the image's tag, and a second run finds it there."""
    family.based(OWN)
    first, second = (
        call("rebase", family.app, "--onto", family.base, "--scheme", "revision", "--json").json["results"][0]
        for _ in range(2)
    )
    [record] = family.records()
    labels = family.config()["config"]["Labels"]

    assert [each["ref"] for each in (first, second)] == [f"{family.address}/shop/app:1.4.2.1"] * 2
    assert [each["status"] for each in (first, second)] == ["rebased", "unchanged"]
    assert record["revision.of"] == labels["boltseal.revision-of"] == "1.4.2"
    assert record["base.was"] == labels["boltseal.base.was"] == OLD.digest


def test_the_next_revision_follows_a_second_move_of_the_base(family: Family) -> None:
    """A rebase after another move of the base makes the next revision, from the former revision or the first image."""
    family.based(OWN)
    arguments = ("--onto", family.base, "--scheme", "revision", "--json")
    call("rebase", family.app, *arguments)
    family.move(base_of({"usr/lib/tls.so": "tls 3"}))
    again = call("rebase", f"{family.app}.1", *arguments).json["results"][0]

    assert (again["status"], again["ref"]) == ("rebased", f"{family.app}.2")


def test_a_tag_of_another_image_is_not_moved(family: Family) -> None:
    """A tag that resolves to another image is refused, also one that could be moved."""
    family.based(OWN)
    family.push(image_of([{"x": "x"}]), tag="latest")
    for tag in ("1.4.2", "latest"):
        ran = family.rebase(tag=tag)

        assert ran.code == 1
        assert "never moves a tag" in ran.err


def test_a_dry_run_pushes_nothing(family: Family) -> None:
    """A dry run says what would be done, without a tag, and pushes nothing."""
    family.based(OWN)
    ran = call("rebase", family.app, "--onto", family.base, "--dry-run")

    assert ran.code == 0, ran.err
    assert " ".join(ran.out.split()).startswith(f"possible {family.app} for linux/amd64 was on")
    assert "2 of the old base, 3 of the new one; 1 own layer kept" in " ".join(ran.out.split())
    assert family.client.get("/v2/shop/app/tags/list").json()["tags"] == ["1.4.2"]


def test_the_old_base_is_found_by_the_layers_that_the_new_ones_tag_had(family: Family) -> None:
    """Without any record, the old base is the longest known chain of layers that the tag of --onto ever resolved to."""
    family.push(OLD, "base/os", "latest")
    family.push(app_on(OLD, OWN))
    family.move()
    [row] = family.rebase("--json").json["results"]

    assert (row["status"], row["old_base"]) == ("rebased", f"{family.base}@{OLD.digest}")
    assert row["evidence"] == "longest chain"


def test_an_unknown_old_base_is_a_refusal_and_can_be_named(family: Family) -> None:
    """An old base that is recorded nowhere is exit code 3 with what to do; named by --base, it is proven by the layers."""
    family.push(OLD, "base/former", "1.0.0")
    family.push(app_on(OLD, OWN))
    family.move()
    code, row = family.refusal()
    named = family.rebase("--base", f"{family.address}/base/former@{OLD.digest}", "--json")

    assert (code, row["status"]) == (3, "unknown")
    assert "name the old base: --base" in row["reason"]
    assert named.json["results"][0]["status"] == "rebased"


def test_a_base_of_another_repository_is_not_replaced_unasked(family: Family) -> None:
    """A record that names a base of another repository may be inherited, so it does not decide what is replaced."""
    family.push(OLD, "base/other", "1.0.0")
    family.push(app_on(OLD, OWN, annotations={NAME: f"{family.address}/base/other:1.0.0", DIGEST: OLD.digest}))
    family.move()
    code, row = family.refusal()

    assert code == 3
    assert "of another repository" in row["reason"]


def test_a_wrong_base_is_refused(family: Family) -> None:
    """A named base is refused unless the image has exactly its layers, in their order, at its beginning."""
    family.based(OWN)
    swapped = image_of([OLD.layers[1], OLD.layers[0]])
    for number, wrong in enumerate((swapped, NEW)):
        family.push(wrong, "base/os", f"wrong-{number}")
        code, row = family.refusal("--base", f"{family.base.rpartition(':')[0]}@{wrong.digest}")

        assert (code, row["status"]) == (1, "refused")
        assert "do not begin" in row["reason"]


@pytest.mark.parametrize(
    ("own", "rule", "path"),
    [
        ({"usr/lib/tls.so": "mine"}, "overwritten", "/usr/lib/tls.so"),
        ({"usr/lib/more": "mine"}, "overwritten", "/usr/lib/more"),
        ({"usr/lib/.wh.tls.so": ""}, "deleted", "/usr/lib/tls.so"),
        ({".wh.usr": ""}, "deleted", "/usr/lib/more"),
        ({"usr/.wh..wh..opq": ""}, "deleted", "/usr/lib/more"),
        ({"usr": "a file"}, "overwritten", "/usr/lib/more"),
        ({"app/tls": hard_link("usr/lib/tls.so")}, "link", "/app/tls"),
        ({"l": symlink("usr/lib"), "l/tls.so": "through a link"}, "overwritten", "/usr/lib/tls.so"),
    ],
)
def test_own_layers_that_touch_changed_files_are_refused(family: Family, own: Files, rule: str, path: str) -> None:
    """Overwritten, deleted, hidden and linked files of the base that changed refuse the rebase; nothing is pushed."""
    family.based(own)
    code, row = family.refusal()

    assert (code, row["status"]) == (1, "refused")
    assert (rule, path) in [(each["rule"], each["path"]) for each in row["conflicts"]]


def test_packages_installed_on_a_base_with_other_packages_are_refused(family: Family) -> None:
    """Own packages and updated packages of the base are refused: each database would hide the other's packages."""
    new = base_of({"usr/lib/tls.so": "tls 1", "var/lib/dpkg/status": "tool 2"})
    family.based({"var/lib/dpkg/status": "tool 1, own", "usr/bin/own": "x"}, new=new)
    code, row = family.refusal()

    assert code == 1
    assert [each["rule"] for each in row["conflicts"]] == ["packages"]


@pytest.mark.parametrize(
    ("files", "rule"),
    [
        ({"etc/os-release": "ID=debian\nVERSION_ID=13\n"}, "distribution"),
        ({"etc/os-release": "ID=ubuntu\nVERSION_ID=12\n"}, "distribution"),
        ({"lib/libc.so.6": GLIBC.replace("2.36", "2.31")}, "libc"),
        ({"lib/.wh.libc.so.6": "", "lib/ld-musl-x86_64.so.1": "musl libc (\0 1.2.5"}, "libc"),
    ],
)
def test_another_distribution_or_an_older_c_library_is_refused(family: Family, files: Files, rule: str) -> None:
    """A new base of another distribution, major version or C library, or with an older one, is refused."""
    family.based(OWN, new=base_of(files))
    code, row = family.refusal()

    assert (code, [each["rule"] for each in row["conflicts"]]) == (1, [rule])


def test_a_newer_c_library_is_no_conflict(family: Family) -> None:
    """A program runs with a newer glibc than it was built with, so such a base is accepted."""
    family.based(OWN, new=base_of({"lib/libc.so.6": GLIBC.replace("2.36", "2.41")}))

    assert family.rebase().code == 0


def test_layers_with_other_content_than_their_config_states_are_refused(family: Family) -> None:
    """An image that claims the base's diff_ids for layers of its own making is not taken for one on the base."""
    family.push(OLD, "base/os", "latest")
    stated = [layer["diff_id"] for layer in _diff_ids(OLD)]
    forged = image_of(
        [{"etc/os-release": "other"}, {"x": "y"}, OWN], diff_ids=[*stated, _diff_ids(image_of([OWN]))[0]["diff_id"]]
    )
    family.push(forged)
    family.move()
    code, row = family.refusal("--base", f"{family.base.rpartition(':')[0]}@{OLD.digest}")

    assert (code, row["status"]) == (3, "unknown")
    assert "has not the content that the config states" in row["reason"]


def _diff_ids(document: Document) -> list[dict[str, str]]:
    return [{"diff_id": each} for each in json.loads(document.config.data)["rootfs"]["diff_ids"]]


def test_a_damaged_layer_is_could_not_check(family: Family) -> None:
    """An own layer that is no tar is exit code 3, with the reason."""
    from_noise = layer_of({"a": b"\xff" * 5000})
    broken = type(from_noise)(from_noise.data[:40], from_noise.media_type)
    family.push(OLD, "base/os", "latest")
    stated = [each["diff_id"] for each in _diff_ids(OLD)] + [digest_of(b"whatever")]
    family.push(image_of([*OLD.layers, broken], diff_ids=stated, annotations={NAME: family.base, DIGEST: OLD.digest}))
    family.move()
    code, row = family.refusal()

    assert (code, row["status"]) == (3, "unknown")
    assert "can't be compared" in row["reason"]


def test_all_platforms_are_rebased_and_attestations_left_out(family: Family) -> None:
    """Every platform of an index gets its own new base; attestations of the former image are left out, with a notice."""
    olds, news, apps = zip(*(_platform(architecture) for architecture in ("amd64", "arm64")), strict=True)
    attestation = artifact("provenance")
    family.push(attestation, tag=attestation.digest)
    entry = attestation.descriptor(
        platform={"os": "unknown", "architecture": "unknown"},
        annotations={
            "vnd.docker.reference.digest": apps[0].digest,
            "vnd.docker.reference.type": "attestation-manifest",
        },
    )
    old, new = index_of(*olds), index_of(*news)
    family.push(old, "base/os", "latest")
    family.push(index_of(*apps, more=[entry]))
    family.move(new)
    ran = family.rebase()
    listed = family.document()["manifests"]

    assert ran.code == 0, ran.err
    assert "1 attestation of the former image left out" in ran.err
    assert [each["platform"]["architecture"] for each in listed] == ["amd64", "arm64"]
    for each, base in zip(listed, news, strict=True):
        assert family.document(each["digest"])["layers"][1]["digest"] == base.layers[1].digest


def _platform(architecture: str, own: Files = OWN) -> tuple[Document, Document, Document]:
    old, new = (base_of({"usr/lib/tls.so": f"{architecture} {tls}"}, architecture=architecture) for tls in (1, 2))
    return old, new, app_on(old, own, architecture=architecture)


def test_one_platform_that_is_refused_refuses_all(family: Family) -> None:
    """If one platform can't be rebased, nothing is pushed, and the results name the platform."""
    olds, news, apps = zip(_platform("amd64"), _platform("arm64", {"usr/lib/tls.so": "mine"}), strict=True)
    family.push(index_of(*olds), "base/os", "latest")
    family.push(index_of(*apps))
    family.move(index_of(*news))
    code, _ = family.refusal()
    rows = {each["platform"]: each["status"] for each in family.rebase("--json").json["results"]}

    assert code == 1
    assert rows == {"linux/amd64": "possible", "linux/arm64": "refused"}


def test_a_new_base_without_a_platform_of_the_image_is_refused(family: Family) -> None:
    """A platform for which the new base has no image is named in the refusal."""
    olds, news, apps = zip(*(_platform(architecture) for architecture in ("amd64", "arm64")), strict=True)
    family.push(index_of(*olds), "base/os", "latest")
    family.push(index_of(*apps))
    family.move(index_of(news[0]))
    rows = family.rebase("--json", "--base", f"{family.base.rpartition(':')[0]}@{index_of(*olds).digest}").json[
        "results"
    ]

    assert [each["status"] for each in rows] == ["possible", "refused"]
    assert "has no image for linux/arm64" in rows[1]["reason"]


def test_an_image_on_the_new_base_already_is_unchanged(family: Family) -> None:
    """If the base has not moved, there is nothing to do, and no tag is made."""
    family.based(OWN, new=OLD)
    code, row = family.refusal()

    assert (code, row["status"]) == (0, "unchanged")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--onto", "base"),
        ("--onto", f"base@sha256:{'0' * 64}", "--tag", "1"),
        ("--tag", "1"),
        ("--onto", "base", "--tag", "not a tag"),
        ("--onto", "base", "--scheme", "date"),
        ("--onto", "base", "--scheme", "revision", "--tag", "1"),
        ("--onto", "base", "--scheme", "revision", "--separator", "+"),
    ],
)
def test_a_request_without_its_tag_or_base_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    """A rebase needs the new base by its tag, and a tag for the result; no registry is contacted otherwise."""
    assert call("rebase", "r.test/app:1", *arguments).code == 2
