"""Pinned files as the tools read them: Compose before and after, builds and containers from pinned files."""

from __future__ import annotations

import asyncio
import json
import os
import tarfile
from pathlib import Path

import pytest
import yaml

from boltseal.oci.digest import Digest
from boltseal.project.edits import ScanRequest, edit
from boltseal.project.generated_files import EMITTERS
from boltseal.project.references.compose import EXTENDED
from boltseal.project.scan import scan_project
from boltseal.project.source_files import ProjectTree
from tests.cli.program import run as run_boltseal
from tests.fakes.cluster import FakeCluster
from tests.programs import program
from tests.project.projects import digest_of, found_in, pinned, put, trap, written
from tests.real.registry import Registry
from tests.real.sleeper import publish, sleeper
from tests.real.tools import Docker, output, run

pytestmark = pytest.mark.real

NOT_READ_BY_COMPOSE_2_26 = {
    "compose_beyond_ascii": "is not allowed",
    "compose_include_and_extends": "OCI remote resource is disabled",
    "compose_other_places": "is missing a mount target",
    "compose_override_tags": "has neither an image nor a build context",
}
TRAPS = sorted(path.name for path in (Path(__file__).parent.parent / "data" / "pin").glob("compose_*"))


def images(root: Path, *files: str) -> list[str]:
    """Return what `docker-compose config --images` prints."""
    named = [part for file in files or (compose_file(root),) for part in ("-f", str(root / file))]
    env = {"PATH": os.environ["PATH"], "MUST": "registry.example.com/must:1", "COMPOSE_PROFILES": "*"}
    output = run("docker-compose", *named, "config", "--images", env=env, cwd=root).checked()
    return sorted(line for line in output.splitlines() if not line.startswith("time="))  # warnings, each with its time


def compose_file(root: Path) -> str:
    """Return the file that Compose reads by default."""
    return next(path.name for path in sorted(root.iterdir()) if path.name in ("compose.yml", "compose.yaml"))


def bare(image: str) -> str:
    """Return an image reference without its digest."""
    return image.partition("@")[0]


@pytest.mark.parametrize("name", [name for name in TRAPS if name not in NOT_READ_BY_COMPOSE_2_26])
def test_compose_reads_the_same_images_before_and_after(name: str, tmp_path: Path) -> None:
    """Compose lists the scanned images; after pinning, the same images with the written digests."""
    root = trap(name, tmp_path)
    before = images(root)
    image_refs = [
        image_ref
        for image_ref in found_in(root, compose_file(root)).image_refs
        if image_ref.where.endswith(".image")
        and not image_ref.where.startswith(EXTENDED)  # Compose starts no such service
    ]
    edited = pinned(root)
    put(root, edited)
    kept = {refusal.image_ref.where for refusal in edited.refusals}
    expected = sorted(
        f"{bare(image_ref.resolved.familiar())}@{digest_of(image_ref)}"
        if image_ref.edit_range and image_ref.where not in kept and not image_ref.build
        else image_ref.resolved.familiar()
        for image_ref in image_refs
        if image_ref.resolved
    )

    ours = sorted(image_ref.resolved.familiar() for image_ref in image_refs if image_ref.resolved)
    assert [image for image in before if image in ours] == ours
    assert sorted(bare(image) for image in images(root)) == sorted(bare(image) for image in before)
    assert [image for image in images(root) if image in expected] == expected


@pytest.mark.parametrize("name", NOT_READ_BY_COMPOSE_2_26)
def test_traps_that_this_compose_refuses_are_listed(name: str, tmp_path: Path) -> None:
    """Debian's Compose refuses these trap files before and after pinning, so the test above leaves them out."""
    root = trap(name, tmp_path)
    result = run("docker-compose", "-f", str(root / compose_file(root)), "config", "--images", cwd=root)

    assert NOT_READ_BY_COMPOSE_2_26[name] in result.text


def test_variables_are_filled_in_as_compose_fills_them_in(tmp_path: Path) -> None:
    """Variables with every operator, set, empty and unset, nested and escaped, are filled in as by Compose."""
    env = (
        "SET=1.2\nEMPTY=\nexport EXPORTED=1.3\nSINGLE='1.4' # c\nDOUBLE=\"1.5\"\nCOMMENT=1.6 # c\nHASH=1.7#c\n"
        "MADE=${SET}-a\nMADE2=\"$SET-b\"\nKEPT='x${SET}'\n  INDENTED = 1.8 \nLAST=1\nLAST=1.9\nYAML: 2.0\n"
    )
    forms = [f"${{{name}{op}d}}" for name in ("SET", "EMPTY", "GONE") for op in (":-", "-", ":+", "+")]
    forms += [
        "${SET}",
        "$SET",
        "${EMPTY}",
        "${GONE}",
        "$GONE",
        "${GONE:-${SET}}",
        "${GONE:-${GONE2:-x}}",
        "a$$b",
        "${SET:?e}",
    ]
    forms += [
        "${GONE-${SET:+y}}",
        "${SET:+a${EMPTY:-b}c}",
        "${GONE:-}",
        "$SET-$SET",
        "${EMPTY:-a}${SET}",
        "${EMPTY-a}b",
    ]
    forms += [
        f"${name}" for name in ("EXPORTED", "SINGLE", "DOUBLE", "COMMENT", "MADE", "MADE2", "INDENTED", "LAST", "YAML")
    ]
    services = {f"s{number}": {"image": f"x:v{form}"} for number, form in enumerate(forms)}
    root = written(tmp_path, {".env": env, "compose.yml": yaml.safe_dump({"services": services})})
    read = json.loads(output("docker-compose", "-f", str(root / "compose.yml"), "config", "--format", "json"))
    ours = {image_ref.where.split(".")[1]: image_ref for image_ref in found_in(root).image_refs}

    for number, form in enumerate(forms):
        theirs, image_ref = read["services"][f"s{number}"]["image"].replace("$$", "$"), ours[f"s{number}"]
        assert (form, theirs) == (form, image_ref.resolved.familiar() if image_ref.resolved else theirs)
        assert (form, image_ref.resolved is None) == (form, "$" in theirs)


def test_an_override_gives_every_service_its_digest(tmp_path: Path) -> None:
    """An override gives every service its digest, also where a variable can't have one."""
    root = trap("compose_dotenv", tmp_path)
    digests = {image_ref: digest_of(image_ref) for image_ref in found_in(root).image_refs}
    (root / "digests.yml").write_text(EMITTERS["compose-override"](digests).text)

    assert images(root, "compose.yml", "digests.yml") == sorted(
        f"{image_ref.resolved.familiar()}@{digest}" for image_ref, digest in digests.items() if image_ref.resolved
    )


def kustomized(root: Path) -> list[str]:
    """Return the images that `kubectl kustomize` makes of a folder."""
    documents = yaml.safe_load_all(output("kubectl", "kustomize", str(root)))
    return [container["image"] for document in documents for container in document["spec"]["containers"]]


POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n    - {name: a, image: nginx}\n    - {name: b, image: 'redis:7'}\n"


def test_kustomize_resolves_a_pinned_kustomization_to_the_digest(tmp_path: Path) -> None:
    """kustomize resolves a pinned kustomization to the digest, after a tag or in an empty `digest`."""
    text = "resources: [pod.yaml]\nimages:\n  - {name: nginx, newTag: '1.25'}\n  - {name: redis, newTag: '7.2', digest: ''}\n"
    root = written(tmp_path, {"pod.yaml": POD, "kustomization.yaml": text})
    before = kustomized(root)
    nginx, redis = (digest_of(image_ref) for image_ref in found_in(root, "kustomization.yaml").image_refs)
    asked = ScanRequest(ProjectTree(root), [Path("kustomization.yaml")])
    found = scan_project(asked.project, asked.paths)
    put(root, edit(asked, found, {image_ref: digest_of(image_ref) for image_ref in found.image_refs}))

    assert before == ["nginx:1.25", "redis:7.2"]
    assert kustomized(root) == [f"nginx:1.25@{nginx}", f"redis:7.2@{redis}"]


def test_kustomize_resolves_a_component_to_the_digest(tmp_path: Path) -> None:
    """With a component, kustomize uses the digest, and the manifests stay unchanged."""
    text = "resources: [pod.yaml]\ncomponents: [digests]\n"
    root = written(tmp_path, {"pod.yaml": POD, "kustomization.yaml": text})
    digests = {image_ref: digest_of(image_ref) for image_ref in found_in(root, "pod.yaml").image_refs}
    written(root, {"digests/kustomization.yaml": EMITTERS["kustomize"](digests).text})
    nginx, redis = digests.values()

    assert kustomized(root) == [f"nginx:latest@{nginx}", f"redis:7@{redis}"]


def pin_by_registry(root: Path, registry: Registry) -> set[str]:
    """Pin a project with the command to its tags' current digests; return these digests."""
    assert registry.host.startswith("127.0.0.1:")  # a registry that a project may name without permission
    result = run_boltseal("pin", "--write", "--project", root)
    assert result.code == 0, result.err
    image_refs = found_in(root).image_refs
    assert all(image_ref.pinned for image_ref in image_refs)
    return {str(image_ref.pinned) for image_ref in image_refs}


def test_a_build_from_a_pinned_dockerfile_keeps_its_base_when_the_tag_moves(
    docker: Docker, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """BuildKit pulls the pinned digest of FROM with an ARG and of `COPY --from`, after the tags have moved."""
    name = f"{registry.host}/{repository}"
    docker.push(docker.image(b"the first base"), f"{name}:latest").checked()
    docker.push(docker.image(b"the tool"), f"{name}/tool:1.0.0").checked()
    text = f"ARG V=latest\nFROM {name}:${{V}} AS base\nFROM scratch\nCOPY --from=base /app /base\nCOPY --from={name}/tool:1.0.0 /app /tool\n"
    root = written(tmp_path / "project", {"Dockerfile": text})
    pin_by_registry(root, registry)
    docker.push(docker.image(b"the second base"), f"{name}:latest").checked()
    docker.run("build", "--no-cache", "--output", f"type=local,dest={tmp_path}/out", str(root)).checked()

    assert "ARG V=latest@sha256:" in (root / "Dockerfile").read_text()
    assert (tmp_path / "out/base").read_bytes() == b"the first base"
    assert (tmp_path / "out/tool").read_bytes() == b"the tool"


def test_a_build_by_a_policy_keeps_its_base_though_no_file_was_edited(
    docker: Docker, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """With a source policy BuildKit pulls the locked digest, although the Dockerfile can't be edited."""
    name = f"{registry.host}/{repository}"
    docker.push(docker.image(b"the first base"), f"{name}:latest").checked()
    text = f"ARG V=latest\nFROM {name}:${{V}}\nARG V\nLABEL v=${{V}}\n"
    root = written(tmp_path / "project", {"Dockerfile": text})
    (image_ref,) = found_in(root).image_refs
    policy = EMITTERS["buildkit-source-policy"]({image_ref: Digest.parse(registry.digest(repository, "latest"))})
    (tmp_path / "policy.json").write_text(policy.text)
    docker.push(docker.image(b"the second base"), f"{name}:latest").checked()
    result = run(
        *("docker", "-H", docker.host, "build", "--no-cache", "--output", f"type=local,dest={tmp_path}/out", str(root)),
        env={"EXPERIMENTAL_BUILDKIT_SOURCE_POLICY": str(tmp_path / "policy.json")},
    )

    assert image_ref.edit_range is None
    assert result.ok, result.text
    assert (tmp_path / "out/app").read_bytes() == b"the first base"


def with_a_shell(docker: Docker, folder: Path) -> str:
    """Return an image with a program that runs."""
    with tarfile.open(folder / "shell.tar", "w") as tar:
        tar.add(Path(program("busybox")).resolve(), "busybox")
    docker.run("import", str(folder / "shell.tar"), "shell:1").checked()
    return "shell:1"


def test_compose_starts_what_was_pinned(docker: Docker, registry: Registry, repository: str, tmp_path: Path) -> None:
    """`docker-compose up` pulls the digests in `.env` and in a default, after both tags moved."""
    name = f"{registry.host}/{repository}"
    shell = with_a_shell(docker, tmp_path)
    for tag in ("latest", "edge"):
        docker.push(shell, f"{name}:{tag}").checked()
    service = "network_mode: host, command: [/busybox, echo, it runs]"
    text = f"services:\n  one: {{image: '{name}:${{TAG}}', {service}}}\n  two: {{image: '{name}:${{X:-edge}}', {service}}}\n"
    root = written(tmp_path / "project", {"compose.yml": text, ".env": "TAG=latest\n"})
    pins = pin_by_registry(root, registry)
    for tag in ("latest", "edge"):
        docker.push(docker.image(b"no program"), f"{name}:{tag}").checked()
    compose = ("docker-compose", "-f", str(root / "compose.yml"))
    env = {"DOCKER_HOST": docker.host}
    result = run(*compose, "up", "--no-color", env=env, cwd=root)
    used = run(*compose, "config", "--images", env=env, cwd=root).checked().split()
    run(*compose, "down", env=env, cwd=root)

    assert result.text.count("it runs") == 2, result.text
    assert {image.partition("@")[2] for image in used} == pins


def test_compose_starts_an_overrides_digest_where_no_edit_is_sound(
    docker: Docker, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """For variables inside tags, pin leaves the files and names the override, which starts the locked images."""
    name = f"{registry.host}/{repository}"
    shell = with_a_shell(docker, tmp_path)
    for tag in ("nightly", "edge"):
        docker.push(shell, f"{name}:{tag}").checked()
    service = "network_mode: host, command: [/busybox, echo, it runs]"
    text = f"services:\n  one: {{image: '{name}:${{A:-night}}ly', {service}}}\n  two: {{image: '{name}:${{B:-ed}}ge', {service}}}\n"
    root = written(tmp_path / "project", {"compose.yml": text})
    locked, pinned_ = run_boltseal("lock", "--project", root), run_boltseal("pin", "--write", "--project", root)
    emitted = run_boltseal("lock", "--emit", "compose-override", "--project", root)
    written(root, {"digests.yml": emitted.out})
    for tag in ("nightly", "edge"):
        docker.push(docker.image(b"no program"), f"{name}:{tag}").checked()
    compose = ("docker-compose", "-f", str(root / "compose.yml"), "-f", str(root / "digests.yml"))
    result = run(*compose, "up", "--no-color", env={"DOCKER_HOST": docker.host}, cwd=root)
    run(*compose, "down", env={"DOCKER_HOST": docker.host}, cwd=root)

    assert (locked.code, pinned_.code, emitted.code) == (0, 1, 0)
    assert "`boltseal lock --emit compose-override`" in pinned_.err
    assert "sha256:" not in (root / "compose.yml").read_text()
    assert result.text.count("it runs") == 2, result.text


async def test_kubernetes_is_given_the_digest(registry: Registry, repository: str, tmp_path: Path) -> None:
    """`boltseal pin --stdout | kubectl apply --dry-run=client -f -` names the digest, and the file is unchanged."""
    digest = publish(registry.host, repository, "1.4.2", sleeper("app"))
    image = f"{registry.host}/{repository}:1.4.2"
    pod = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: app}}\nspec:\n  containers:\n    - {{name: app, image: '{image}'}}\n"
    root = written(tmp_path / "project", {"pod.yaml": pod})
    locked = await asyncio.to_thread(run_boltseal, "lock", "--project", root)
    pinned_text = await asyncio.to_thread(run_boltseal, "pin", "--stdout", "--project", root, root / "pod.yaml")
    (tmp_path / "pinned.yaml").write_text(pinned_text.out)
    async with FakeCluster().listening(tmp_path, "test") as config:
        flags = (
            "--kubeconfig",
            str(config),
            "--context",
            "test",
            "--validate=false",
            "--dry-run=client",
            "--output",
            "json",
        )
        printed = await asyncio.to_thread(
            output, "kubectl", "apply", *flags, "--filename", str(tmp_path / "pinned.yaml")
        )
    containers = json.loads(printed)["spec"]["containers"]

    assert (locked.code, pinned_text.code) == (0, 0), locked.err + pinned_text.err
    assert [each["image"] for each in containers] == [f"{image}@{digest}"]
    assert (root / "pod.yaml").read_text() == pod
