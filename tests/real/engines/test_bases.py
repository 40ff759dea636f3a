"""`boltseal outdated` for images that docker and buildah build on bases that really move."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import servers
from tests.cli import program
from tests.images import OCI_INDEX
from tests.programs import program as installed
from tests.real.registry import ACCEPT, Registry
from tests.real.tools import Docker, run

pytestmark = [pytest.mark.real, pytest.mark.slow]


@dataclass
class Yard:
    """A builder, a registry, and a folder for each image. Tags `latest` are mutable."""

    builder: str
    registry: Registry
    name: str
    folder: Path
    environment: dict[str, str]
    plain: Sequence[str]
    pushes: Sequence[str]

    def ref(self, image: str, tag: str = "latest") -> str:
        return f"{self.registry.host}/{self.name}/{image}:{tag}"

    def _context(self, image: str, lines: str) -> Path:
        folder = self.folder / image
        folder.mkdir(exist_ok=True)
        for letter in "abcdefgh":
            (folder / letter).write_text(f"{letter} of {self.name}\n")
        folder.joinpath("Dockerfile").write_text(lines)
        return folder

    def base(self, image: str, layers: str, *more: str, under: str = "scratch") -> str:
        """Build and push a base image without boltseal; return its digest."""
        lines = [f"FROM {under}", *(f"COPY {letter} /" for letter in layers), *more]
        context = self._context(image, "\n".join(lines) + "\n")
        named = self.ref(image)
        run(*self.plain, "--tag", named, context, env=self.environment).checked()
        run(*self.pushes, named, env=self.environment).checked()
        return self.digest(image)

    def digest(self, image: str, tag: str = "latest") -> str:
        return self.registry.digest(f"{self.name}/{image}", tag)

    def build(self, image: str, lines: str, *arguments: str) -> program.Run:
        context = self._context(image, lines)
        return program.run(
            "build", context, "--builder", self.builder, "-r", f"{self.registry.host}/{self.name}/{image}", *arguments,
            environment=self.environment,
        )  # fmt: skip

    def app(self, image: str, lines: str, *arguments: str) -> str:
        """Build, push and record an image with boltseal; return the reference."""
        done = self.build(image, lines, *arguments)
        assert done.code == 0, done.err
        return done.out.strip().partition("@")[0]

    def outdated(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        result = program.call("outdated", "--window", "0s", "--json", *arguments)
        assert not result.json["errors"], result.out
        return result.code, result.json["results"]

    def status(self, reference: str, *arguments: str) -> tuple[str, str]:
        _, [result] = self.outdated(reference, *arguments)
        return result["status"], result["reason"]

    def put(self, image: str, tag: str, body: bytes, media_type: str) -> None:
        answer = httpx2.put(
            f"{self.registry.server.url}/v2/{self.name}/{image}/manifests/{tag}",
            content=body, headers={"content-type": media_type}, trust_env=False,
        )  # fmt: skip
        assert answer.status_code == 201, answer.text

    def index(self, image: str, *entries: dict[str, Any]) -> None:
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        self.put(image, "latest", json.dumps(body).encode(), OCI_INDEX)

    def entry(self, image: str, digest: str, architecture: str, **more: Any) -> dict[str, Any]:
        url = f"{self.registry.server.url}/v2/{self.name}/{image}/manifests/{digest}"
        answer = httpx2.get(url, headers={"accept": ACCEPT}, trust_env=False)
        platform = {"os": "linux" if architecture != "unknown" else "unknown", "architecture": architecture}
        kind = answer.headers["content-type"]
        return {"mediaType": kind, "digest": digest, "size": len(answer.content), "platform": platform, **more}


@pytest.fixture(params=["buildx", "docker", "buildah"])
def builder(request: pytest.FixtureRequest) -> str:
    """Each builder, or the one that a test names. `containerd`: buildx on containerd's image store."""
    found: str = request.param
    return found


@pytest.fixture
def yard(
    builder: str,
    request: pytest.FixtureRequest,
    registry: Registry,
    repository: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Yard]:
    for variable in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "empty-home"))
    state = {"BOLTSEAL_STATE": os.environ["BOLTSEAL_STATE"]}
    if builder == "buildah":
        tool, folder = tmp_path / "bin" / "buildah", tmp_path / "store"
        tool.parent.mkdir()
        tool.write_text(
            f'#!/bin/sh\nexec {installed("buildah")} --root {folder}/root --runroot {folder}/run --storage-driver vfs "$@"\n'
        )
        tool.chmod(0o755)
        environment = {"PATH": f"{tool.parent}:{os.environ['PATH']}", **state}
        plain: Sequence[str] = (str(tool), "bud", "--layers", "--tls-verify=false")
        yield Yard(
            builder, registry, repository, tmp_path, environment, plain, (str(tool), "push", "--tls-verify=false")
        )
        servers.unmounted(folder)
        return
    docker: Docker = request.getfixturevalue("docker_containerd" if builder == "containerd" else "docker")
    used = "buildx" if builder == "containerd" else builder
    environment = {"DOCKER_HOST": docker.host, "DOCKER_BUILDKIT": "1" if used == "buildx" else "0", **state}
    plain = ("docker", "build")
    yield Yard(used, registry, repository, tmp_path, environment, plain, ("docker", "-H", docker.host, "push"))


def test_a_moved_base_is_reported_and_the_rebuild_is_current(yard: Yard) -> None:
    """A moved base makes the image outdated; after a rebuild it is current and is not rebuilt again."""
    was = yard.base("node", "ab")
    lines = f"FROM {yard.ref('node')}\nCOPY c /\n"
    app = yard.app("app", lines)
    again = yard.build("app", lines)
    current = yard.outdated(app)
    now = yard.base("node", "ad")
    code, [moved] = yard.outdated(app)
    rebuilt = yard.app("app", lines)

    assert (again.code, again.out.partition("@")[0]) == (0, app)
    assert "nothing to do" in again.err
    assert current[0] == 0
    assert current[1][0]["by"] == "a built entry of the ledger"
    assert code == 1
    assert (moved["built_on"], moved["resolves_to"], moved["behind"], moved["behind_exact"]) == (was, now, 1, True)
    assert (moved["changes"]["removed"]["layers"], moved["changes"]["added"]["layers"]) == (1, 1)
    assert rebuilt != app
    assert yard.outdated(rebuilt)[0] == 0


def test_a_base_that_lost_its_top_layer_is_found(yard: Yard) -> None:
    """A base that lost its top layer makes the image outdated, by its record or by the tag's history."""
    yard.base("node", "abc")
    yard.base("plain", "d", under=yard.ref("node"))
    app = yard.app("app", f"FROM {yard.ref('node')}\nCOPY d /\n")
    yard.base("node", "ab")
    recorded = yard.status(app)
    proven = yard.status(yard.ref("plain"), "--base", yard.ref("node"))

    assert recorded == ("outdated", "the base lost its uppermost layer")
    assert proven == ("outdated", "the base lost its uppermost layer")


@pytest.mark.parametrize("builder", ["buildx"])
def test_a_base_of_which_only_a_setting_changed_is_found(yard: Yard) -> None:
    """A base with equal layers and other ENV, CMD, USER or EXPOSE makes the image outdated."""
    yard.base("node", "ab", "ENV V=1")
    app = yard.app("app", f"FROM {yard.ref('node')}\nCOPY c /\n")
    yard.base("node", "ab", "ENV V=2", 'CMD ["/a"]', "USER 1000", "EXPOSE 8080")
    _, [result] = yard.outdated(app)

    assert (result["status"], result["reason"]) == ("outdated", "the base has the same layers and other settings")
    assert set(result["changes"]["settings"]) == {"ENV V", "CMD", "USER", "EXPOSE"}


@pytest.mark.parametrize("builder", ["docker"])
def test_a_change_of_another_platform_or_attestation_is_no_move(yard: Yard) -> None:
    """If only another platform or an attestation of the base's index changed, the image is current."""
    amd, other = yard.base("node", "ab"), yard.base("node", "cd")
    yard.index("node", yard.entry("node", amd, "amd64"), yard.entry("node", other, "arm64"))
    app = yard.app("app", f"FROM {yard.ref('node')}\nCOPY c /\n")
    third = yard.base("node", "ef")
    yard.index("node", yard.entry("node", amd, "amd64"), yard.entry("node", third, "arm64"))
    platform = yard.status(app)
    fields = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd}
    yard.index("node", yard.entry("node", amd, "amd64"), yard.entry("node", third, "unknown", annotations=fields))
    attestation = yard.status(app)

    assert platform[0] == attestation[0] == "current"
    assert "only other platforms" in platform[1]


@pytest.mark.parametrize("builder", ["docker"])
def test_a_deleted_base_is_unknown(yard: Yard) -> None:
    """For a deleted base the result is unknown, with the reason."""
    yard.base("node", "ab")
    app = yard.app("app", f"FROM {yard.ref('node')}\nCOPY c /\n")
    url = f"{yard.registry.server.url}/v2/{yard.name}/node/manifests/latest"
    httpx2.delete(url, trust_env=False).raise_for_status()

    assert yard.status(app)[0] == "cannot tell"
    assert "no longer exists" in yard.status(app)[1]


@pytest.mark.parametrize("builder", ["buildah"])
def test_a_base_that_was_compressed_with_zstd_is_equal(yard: Yard) -> None:
    """A base recompressed with zstd has equal layers under other digests, so the image is current."""
    was = yard.base("node", "ab")
    app = yard.app("app", f"FROM {yard.ref('node')}\nCOPY c /\n")
    packed = ("--format", "oci", "--compression-format", "zstd", "--force-compression")
    run(*yard.pushes, *packed, yard.ref("node"), env=yard.environment).checked()

    assert yard.digest("node") != was
    assert yard.status(app)[0] == "current"


@pytest.mark.parametrize("builder", ["buildx"])
def test_of_several_stages_the_last_one_counts(yard: Yard) -> None:
    """The last stage's base counts; an image that is only copied from does not make it outdated."""
    yard.base("go", "ef")
    yard.base("node", "ab")
    lines = f"FROM {yard.ref('go')} AS build\nFROM {yard.ref('node')}\nCOPY --from=build /e /e2\n"
    app, other = yard.app("app", lines), yard.app("other", f"FROM {yard.ref('node')}\nCOPY d /\n")
    yard.base("go", "eh")
    _, [by_builder] = yard.outdated(app)
    yard.base("node", "ac")
    code, result = yard.outdated(app, other)

    assert by_builder["status"] == "current"
    assert code == 1
    assert [(one["status"], one["base"]) for one in result] == [("outdated", yard.ref("node"))] * 2


@pytest.mark.parametrize("builder", ["docker"])
def test_an_image_from_scratch_has_no_base(yard: Yard) -> None:
    """An image from scratch has no base and is never outdated."""
    app = yard.app("app", "FROM scratch\nCOPY a /\n")

    assert yard.status(app)[0] == "no base"


@pytest.mark.parametrize("builder", ["buildx"])
def test_a_chain_is_rebuilt_in_order(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """When node moves, the base on it is rebuilt first, and then the app, which is outdated by its base's base."""
    yard.base("node", "ab")
    yard.app("ours", f"FROM {yard.ref('node')}\nCOPY c /\n", "--tag", "latest")
    yard.app("app", f"FROM {yard.ref('ours')}\nCOPY d /\n", "--tag", "latest")
    rebuild, config = yard.folder / "rebuild", yard.folder / "config" / "boltseal" / "boltseal.toml"
    words = f"{sys.executable} -m boltseal build {yard.folder}/$NAME --builder {yard.builder} --tag latest"
    where = f"{yard.registry.host}/{yard.name}/$NAME"
    rebuild.write_text(f"#!/bin/sh\nIMAGE=${{1%:*}}\nNAME=${{IMAGE##*/}}\nexec {words} -r {where}\n")
    rebuild.chmod(0o755)
    config.parent.mkdir(parents=True)
    config.write_text(f'[[on_outdated]]\ncommand = ["{rebuild}", "{{image}}"]\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config.parent.parent))
    for name, value in yard.environment.items():
        monkeypatch.setenv(name, value)
    yard.base("node", "ae")
    before = [one["status"] for one in yard.outdated(yard.ref("app"), yard.ref("ours"))[1]]
    code, result = yard.outdated(yard.ref("app"), yard.ref("ours"), "--rebuild")

    assert before == ["outdated", "outdated"]
    assert code == 0
    assert [(one["ref"], one["status"]) for one in result] == [
        (yard.ref("app"), "current"),
        (yard.ref("ours"), "current"),
        (yard.ref("ours"), "rebuild done"),
        (yard.ref("app"), "rebuild done"),
    ]


@pytest.mark.parametrize("builder", ["buildx", "containerd"])
def test_a_running_image_that_only_a_keep_tag_names_is_rebuilt_by_its_digest(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`outdated --running --rebuild` passes repository and digest of an image with only a keep tag, and never that tag."""
    (yard.folder / "node").mkdir()
    (yard.folder / "node/busybox").write_bytes(Path(installed("busybox")).read_bytes())
    yard.base("node", "ab", "COPY --chmod=755 busybox /busybox")
    app = yard.app("app", f'FROM {yard.ref("node")}\nCOPY c /\nCMD ["/busybox", "sleep", "1000"]\n', "--tag", "latest")
    digest, repository = yard.digest("app"), app.rpartition(":")[0]
    docker = ("docker", "-H", yard.environment["DOCKER_HOST"])
    keep = f"{repository}:boltseal-keep-{digest.removeprefix('sha256:')[:12]}"
    run(*docker, "pull", app).checked()
    run(*docker, "tag", app, keep).checked()
    id_ = run(*docker, "run", "--detach", "--network", "none", keep).checked().strip()
    run(*docker, "rmi", app).checked()
    words, config = yard.folder / "words", yard.folder / "config" / "boltseal" / "boltseal.toml"
    rebuild = yard.folder / "rebuild"
    rebuild.write_text(f'#!/bin/sh\necho "$1" >> {words}\n')
    rebuild.chmod(0o755)
    config.parent.mkdir(parents=True)
    config.write_text(f'[[on_outdated]]\ncommand = ["{rebuild}", "{{image}}"]\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config.parent.parent))
    for name, value in yard.environment.items():
        monkeypatch.setenv(name, value)
    yard.base("node", "ae", "COPY --chmod=755 busybox /busybox")
    result = program.call("outdated", "--window", "0s", "--running", "--rebuild", "--json")
    run(*docker, "rm", "--force", id_).checked()
    asked = [each for each in words.read_text().split() if f"/{yard.name}/app" in each]

    assert asked == [f"{repository}@{digest}"], result.out + result.err
    assert "boltseal-keep" not in result.out + result.err + words.read_text()


@pytest.mark.parametrize("builder", ["buildah"])
def test_a_squashed_image_is_known_by_its_record(yard: Yard) -> None:
    """A squashed image, whose layers prove nothing, is compared by the record of its build."""
    yard.base("node", "ab")
    app = yard.app("app", f"FROM {yard.ref('node')}\nCOPY c /\n", "--", "--squash", "--layers=false")
    before = yard.status(app)
    yard.base("node", "ad")

    assert before[0] == "current"
    assert yard.status(app) == ("outdated", "the base has other layers")


@pytest.mark.parametrize("builder", ["docker"])
def test_a_moved_tag_can_be_moved_back_to_an_earlier_build(yard: Yard) -> None:
    """Building an earlier image again moves the tag back to it, although its record exists."""
    one, other = (f"FROM scratch\nCOPY {letter} /\n" for letter in "ab")
    for lines in (one, other, one):
        yard.app("app", lines, "--tag", "latest")
    again = yard.build("app", one, "--tag", "latest")

    assert "nothing to do" in again.err
    assert again.out.strip() == f"{yard.ref('app')}@{yard.digest('app')}"


@pytest.mark.parametrize("builder", ["buildah"])
def test_a_build_that_fails_records_nothing(yard: Yard) -> None:
    """A failed build is one error line, and nothing is recorded."""
    yard.base("node", "ab")
    done = yard.build("app", f"FROM {yard.ref('node')}\nCOPY missing /\n")

    assert done.code == 3
    assert "nothing was recorded" in done.err


BOTH = ("--platform", "linux/amd64,linux/arm64")


@pytest.mark.parametrize("builder", ["containerd", "buildah"])
def test_an_image_for_several_platforms_is_one_tag(yard: Yard) -> None:
    """A move of a base for one platform makes a multi-platform image outdated for that platform only."""
    yard.app("node", "FROM scratch\nCOPY a /\n", *BOTH, "--tag", "latest")
    before = yard.digest("node")
    done = yard.build("app", f"FROM {yard.ref('node')}\nCOPY c /\n", *BOTH)
    again = yard.build("app", f"FROM {yard.ref('node')}\nCOPY c /\n", *BOTH)
    app = done.out.strip().partition("@")[0]
    current = yard.status(app)
    old = httpx2.get(
        f"{yard.registry.server.url}/v2/{yard.name}/node/manifests/{before}",
        headers={"accept": ACCEPT}, trust_env=False,
    ).json()["manifests"]  # fmt: skip
    arm = next(one["digest"] for one in old if one["platform"]["architecture"] == "arm64")
    yard.app("node", "FROM scratch\nCOPY b /\n", "--tag", "amd")
    amd = yard.digest("node", "amd")
    yard.index("node", yard.entry("node", amd, "amd64"), yard.entry("node", arm, "arm64"))

    assert (done.code, again.code) == (0, 0), done.err
    assert "nothing to do" in again.err
    assert again.out == done.out
    assert current[0] == "current"
    assert yard.status(app)[0] == "outdated"
    assert yard.status(app, "--platform", "linux/amd64")[0] == "outdated"
    assert yard.status(app, "--platform", "linux/arm64")[0] == "current"


@pytest.mark.parametrize("builder", ["containerd"])
def test_a_daemon_pushes_only_the_image_under_a_sealed_tag(yard: Yard) -> None:
    """A sealed tag accepts one manifest, so that docker must not push an attestation under it first."""
    done = yard.build("app", "FROM scratch\nCOPY a /\n")
    app = done.out.strip().partition("@")[0]

    assert done.code == 0, done.err
    assert yard.status(app)[0] == "no base"


@pytest.mark.parametrize("builder", ["containerd"])
def test_a_push_of_several_platforms_that_is_refused_records_nothing(yard: Yard) -> None:
    """If the builder's push to a sealed tag is refused, nothing is recorded and the tag is unchanged."""
    yard.app("app", "FROM scratch\nCOPY a /\n", *BOTH, "--tag", "1.0.0")
    before = yard.digest("app", "1.0.0")
    done = yard.build("app", "FROM scratch\nCOPY b /\n", *BOTH, "--tag", "1.0.0")

    assert done.code == 3
    assert "is sealed" in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].endswith("nothing was recorded")
    assert yard.digest("app", "1.0.0") == before


@pytest.mark.parametrize(("builder", "code"), [("docker", 2), ("buildx", 3)])
def test_a_builder_for_one_platform_is_refused_for_several(yard: Yard, code: int) -> None:
    """A builder that can't build several platforms is an error, and nothing is pushed."""
    done = yard.build("app", "FROM scratch\nCOPY a /\n", *BOTH)

    assert done.code == code
    assert done.err.splitlines()[-1].startswith("boltseal: ")
    assert program.run("tags", f"{yard.registry.host}/{yard.name}/app").code == 1
