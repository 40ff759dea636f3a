"""`boltseal rebase` of images that docker and buildah build, compared with a real rebuild, and really run."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli import program
from tests.programs import program as installed
from tests.real.registry import Registry
from tests.real.tools import Buildah, Docker, output, run
from tests.servers import Server

pytestmark = [pytest.mark.real, pytest.mark.slow]

BASE = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY os-release /etc/os-release
COPY tls /usr/lib/tls
{more}
ENV TLS={tls} KEEP=1
CMD ["/bin/sh"]
"""
APP = """\
FROM {base}
WORKDIR /srv/app
COPY main /srv/app/main
RUN chmod 0711 /srv/app/main && mkdir -p /usr/lib/own /var/own && echo own > /usr/lib/own/a && ln -s /usr/lib/tls /srv/app/link
RUN ln /usr/lib/own/a /usr/lib/own/b && rm -rf /var/own && chown 7:8 /srv/app/main
ENV APP=1
EXPOSE 8080
VOLUME /data
ENTRYPOINT ["/srv/app/main"]
"""
MAIN = '#!/bin/sh\necho "tls $(cat /srv/app/link), variable $TLS, own $(cat /usr/lib/own/b)"\n'


@dataclass
class Shop:
    """A builder, and a repository each for the base and the app."""

    registry: Registry
    name: str
    folder: Path
    build_image: Callable[[str, Path], None]

    def ref(self, image: str, tag: str) -> str:
        return f"{self.registry.host}/{self.name}/{image}:{tag}"

    def build(self, reference: str, lines: str, files: dict[str, str]) -> None:
        context = self.folder / hashlib.sha256(reference.encode()).hexdigest()[:12]
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir()
        shutil.copy(installed("busybox"), context / "busybox")
        for name, text in files.items():
            (context / name).write_text(text)
            (context / name).chmod(0o755)
        (context / "Dockerfile").write_text(lines)
        self.build_image(reference, context)

    def base(self, tls: int, *, more: str = "") -> None:
        """Build and push the base, as the tag `latest`."""
        files = {"os-release": "ID=busy\nVERSION_ID=1\n", "tls": f"{tls}\n"}
        self.build(self.ref("base", "latest"), BASE.format(tls=tls, more=more), files)

    def app(self, tag: str, lines: str = APP) -> str:
        """Build and push the app on the current base; return its reference."""
        reference = self.ref("app", tag)
        self.build(reference, lines.format(base=self.ref("base", "latest")), {"main": MAIN})
        return reference

    def rebase(self, image: str, tag: str, *arguments: str) -> program.Run:
        return program.call("rebase", image, "--onto", self.ref("base", "latest"), "--tag", tag, *arguments)


@pytest.fixture(params=["buildx", "classic", "containerd", "buildah"])
def shop(
    request: pytest.FixtureRequest,
    registry: Registry,
    repository: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    """A shop with each builder: BuildKit, also on containerd's store, Docker's classic one, and buildah."""
    if request.param == "buildah":
        buildah: Buildah = request.getfixturevalue("buildah")
        limits = tmp_path / "containers.conf"  # the limits of some machines are lower than buildah's defaults
        limits.write_text('[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n')
        monkeypatch.setenv("CONTAINERS_CONF_OVERRIDE", str(limits))
        built = ("bud", "--isolation", "chroot", "--layers", "--no-cache", "--pull-always", "--tls-verify=false")

        def build(reference: str, context: Path) -> None:
            buildah.run(*built, "--tag", reference, str(context)).checked()
            buildah.run("push", "--tls-verify=false", reference, f"docker://{reference}").checked()

    else:
        docker: Docker = request.getfixturevalue("docker_containerd" if request.param == "containerd" else "docker")
        environment = {"DOCKER_HOST": docker.host, "DOCKER_BUILDKIT": "0" if request.param == "classic" else "1"}

        def build(reference: str, context: Path) -> None:
            words = ("docker", "build", "--network", "none", "--no-cache", "--pull", "--tag", reference, context)
            run(*words, env=environment).checked()
            docker.run("push", reference).checked()

    return Shop(registry, repository, tmp_path, build)


def files_of(docker: Docker, reference: str) -> dict[str, tuple[Any, ...]]:
    """Return all files that a container of an image has, without their times."""
    docker.run("pull", "--quiet", reference).checked()
    container = docker.run("create", reference).checked().strip()
    exported = output("docker", "-H", docker.host, "export", container)
    docker.run("rm", "--volumes", container).checked()
    found: dict[str, tuple[Any, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
        for entry in archive:
            content = archive.extractfile(entry) if entry.isfile() else None
            digest = "" if content is None else hashlib.sha256(content.read()).hexdigest()
            content_of = found[entry.linkname][-1] if entry.islnk() else digest or entry.linkname
            kind = tarfile.REGTYPE if entry.islnk() else entry.type
            found[entry.name] = (kind, entry.mode, entry.uid, entry.gid, content_of)
    return found


def settings_of(docker: Docker, reference: str) -> dict[str, Any]:
    """Return the settings of an image, without the labels that say where it comes from."""
    [inspected] = json.loads(docker.run("image", "inspect", reference).checked())
    found: dict[str, Any] = inspected["Config"]
    return {key: value for key, value in found.items() if key not in ("Labels", "Image", "Hostname") and value}


def test_a_rebased_image_has_the_files_and_settings_of_a_real_rebuild(
    shop: Shop, docker: Docker, podman_service: Server
) -> None:
    """A rebased image runs on Docker and Podman, and has the same files but for times, and settings, as a rebuild."""
    shop.base(1)
    image = shop.app("dev")  # containerd pushes the parts of an image under the tag, which a sealed one refuses
    shop.base(2, more="COPY tls /usr/lib/added")
    rebased = shop.rebase(image, "1.0.0.1")
    rebuilt = shop.app("nightly")
    result = shop.ref("app", "1.0.0.1")
    current = program.call("outdated", "--window", "0s", "--json", result).json["results"][0]
    started = ("run", "--rm", "--network", "none")
    before = docker.run(*started, image).text
    runs = [engine.run(*started, result).text for engine in (docker, Docker(podman_service.address, "podman"))]

    assert rebased.code == 0, rebased.out + rebased.err
    assert before.endswith("tls 1, variable 1, own own\n")
    assert all(text.endswith("tls 2, variable 2, own own\n") for text in runs), runs
    assert files_of(docker, result) == files_of(docker, rebuilt)
    assert settings_of(docker, result) == settings_of(docker, rebuilt)
    assert (current["status"], current["by"]) == ("current", "a built entry of the ledger")


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("RUN rm /usr/lib/tls", "deleted"),
        ("RUN echo mine > /usr/lib/tls", "overwritten"),
        ("RUN chmod 600 /usr/lib/tls", "overwritten"),
        ("RUN rm -rf /usr/lib && mkdir /usr/lib && echo mine > /usr/lib/mine", "deleted"),
        ("RUN rm -rf /usr/lib && ln -s /bin /usr/lib", "overwritten"),
    ],
)
@pytest.mark.parametrize("shop", ["buildx", "buildah"], indirect=True)
def test_what_hides_a_changed_file_is_refused(shop: Shop, line: str, rule: str) -> None:
    """Deletions, copies and folders that real builders write over a changed file refuse the rebase; nothing is tagged."""
    shop.base(1)
    image = shop.app("1.0.0", APP + line + "\n")
    shop.base(2)
    refused = shop.rebase(image, "1.0.0.1", "--json")
    tags = program.call("tags", image.rpartition(":")[0], "--json").json["results"]

    assert refused.code == 1
    assert rule in [each["rule"] for each in refused.json["results"][0]["conflicts"]]
    assert [each["ref"].rpartition(":")[2] for each in tags] == ["1.0.0"]
