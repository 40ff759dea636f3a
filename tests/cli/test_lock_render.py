"""`boltseal lock --render` and the `verify` of such a lock, with a listening registry, kubectl and Docker Compose."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from boltseal.lockfile.document import Rendered
from boltseal.lockfile.parse import parse_lock
from boltseal.oci.reference import Reference
from tests.cli import program
from tests.cli.program import Run
from tests.images import image, push
from tests.programs import program as installed
from tests.project.projects import DEPLOYMENT, written
from tests.servers import Server

pytestmark = pytest.mark.slow

REPLACED = """\
resources: [../base, images.yaml]
replacements:
- source: {{kind: ConfigMap, name: images, fieldPath: data.web}}
  targets:
  - select: {{kind: Deployment, name: web}}
    fieldPaths: [spec.template.spec.containers.0.image]
"""
IMAGES = "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: images}}\ndata: {{web: '{image}'}}\n"


@pytest.fixture
async def project(server: Server, tmp_path: Path) -> Path:
    """A kustomization whose image comes from a replacement, which boltseal itself does not evaluate."""
    installed("kubectl")
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        for tag in ("1.0.0", "1.1.0"):
            assert (await push(client, "shop/app", tag, image(tag))).status_code == 201
    root = tmp_path / "project"
    files = {
        "base/kustomization.yaml": "resources: [web.yaml]\n",
        "base/web.yaml": DEPLOYMENT,
        "prod/kustomization.yaml": REPLACED.format(),
        "prod/images.yaml": IMAGES.format(image=f"{server.address}/shop/app:1.0.0"),
        ".boltseal.toml": '[[lock.ignore]]\nreference = "app"\nreason = "a placeholder"\n',
    }
    return written(root, files)


def call(project: Path, *words: str) -> Run:
    return program.call(*words, cwd=project)


def references(project: Path) -> list[Reference]:
    return [each.reference for each in parse_lock((project / "boltseal.lock").read_bytes()).images]


def deploy(project: Path, server: Server, tag: str) -> None:
    """Change the image that the kustomization deploys."""
    (project / "prod/images.yaml").write_text(IMAGES.format(image=f"{server.address}/shop/app:{tag}"))


def test_what_kustomize_prints_is_locked_with_its_file(project: Path, server: Server) -> None:
    """The lock has the image that is deployed, the file that it came from, and what was rendered."""
    run = call(project, "lock", "--render")
    lock = parse_lock((project / "boltseal.lock").read_bytes())

    assert run.code == 0, run.err
    assert lock.rendered == (Rendered("kustomize", "prod"),)
    assert [str(each.reference) for each in lock.images] == [f"{server.address}/shop/app:1.0.0"]
    assert [use.file for use in lock.images[0].used] == ["base/web.yaml"]
    assert lock.images[0].used[0].at.startswith("kubectl kustomize prod: Deployment web ")
    assert "rendered by kubectl kustomize prod" in run.err


def test_verify_renders_again(project: Path, server: Server) -> None:
    """A verification renders what the lock has as rendered, and reports an image that is printed and not locked."""
    call(project, "lock", "--render")
    held = call(project, "verify")
    deploy(project, server, "1.1.0")
    changed = call(project, "verify")

    assert held.code == 0, held.err
    assert changed.code == 1
    assert "app:1.1.0: not-in-the-lock" in changed.out
    assert "in the output of kubectl kustomize prod: Deployment web" in changed.out.replace("\n", " ")


def test_without_the_tool_verify_could_not_check(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where kubectl is not installed, the rendered images could not be checked: exit code 3, and the lock keeps them."""
    call(project, "lock", "--render")
    before = (project / "boltseal.lock").read_bytes()
    empty = project.parent / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    verified, locked = call(project, "verify"), call(project, "lock")

    assert verified.code == locked.code == 3
    assert "kubectl kustomize prod can't be rendered: kubectl is not installed" in verified.err + verified.out
    assert (project / "boltseal.lock").read_bytes() == before


def test_a_later_lock_renders_as_before(project: Path, server: Server) -> None:
    """`lock` without the option renders what was rendered; --no-render removes the images that only an output has."""
    call(project, "lock", "--render")
    deploy(project, server, "1.1.0")
    call(project, "lock")
    again = parse_lock((project / "boltseal.lock").read_bytes())
    call(project, "lock", "--no-render", "--allow-empty")
    without = parse_lock((project / "boltseal.lock").read_bytes())

    assert [each.reference.tag for each in again.images] == ["1.1.0"]
    assert (without.images, without.rendered) == ((), ())


def test_what_can_not_be_rendered_the_first_time_is_in_the_lock(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rendering that fails at the first --render stays asked for: `verify` does not end with 0 without those images."""
    with monkeypatch.context() as context:
        empty = project.parent / "bin"
        empty.mkdir()
        context.setenv("PATH", str(empty))
        failed = call(project, "lock", "--render", "--allow-empty")
        verified = call(project, "verify")
    lock = parse_lock((project / "boltseal.lock").read_bytes())
    again = call(project, "lock")

    assert (failed.code, verified.code, again.code) == (3, 3, 0)
    assert Rendered("kustomize", "prod") in lock.rendered
    assert [each.tag for each in references(project)] == ["1.0.0"]


def test_a_part_that_is_gone_leaves_the_lock(project: Path) -> None:
    """--render renders what is there: a kustomization that was removed is no longer in the lock."""
    call(project, "lock", "--render")
    for file in ("kustomization.yaml", "images.yaml"):
        (project / "prod" / file).unlink()
    verified = call(project, "verify")
    call(project, "lock", "--render", "--allow-empty")
    lock = parse_lock((project / "boltseal.lock").read_bytes())

    assert verified.code == 3
    assert "prod" not in [each.path for each in lock.rendered]


def test_rendering_excludes_a_merge(project: Path) -> None:
    """--merge and --emit read the lock alone, and refuse --render."""
    assert call(project, "lock", "--merge", "--render").code == 2
    assert call(project, "lock", "--emit", "kustomize", "--render").code == 2
