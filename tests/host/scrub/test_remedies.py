"""What a scrub says to do about an image that differs: the name and digest to load again, and the steps of each engine."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from boltseal.host.scrub.layer_check import LayerFiles
from boltseal.host.scrub.plans import ContainerPlan, ImagePlan
from boltseal.host.scrub.remedies import Remedy, ScrubAgain, remedy_of
from boltseal.host.scrub.trust import Expectation, Level
from boltseal.oci.digest import Digest

ID = Digest.of(b"config")
PULLED = Digest.of(b"manifest")
NAME = "reg.example/shop/app:1.4.2"
LOCKED = Expectation(Digest.of(b"locked"), Level.L1, "the lock", of_manifest=True)


def remedy(
    *,
    store: str = "docker",
    root: str = "/var/lib/docker",
    id_: Digest = ID,
    names: tuple[str, ...] = (NAME, f"reg.example/shop/app@{PULLED}"),
    expected: Expectation | None = None,
    typed: str = "",
    container: str = "web",
    running: int = 0,
    roots: tuple[Path, ...] = (),
) -> Remedy:
    layer = LayerFiles(Path(root), Digest.of(b"layer"), folder=b"layers/one/diff")
    image = ImagePlan(store, Path(root), id_, ID, names, (layer,))
    plans = [
        ContainerPlan(store, Path(root), "c1", container, id_, None),
        ContainerPlan(store, Path(root), "c2", "other", Digest.of(b"another image"), None),
    ]
    return remedy_of(image, plans, {"c1": running}, expected, ScrubAgain(typed, roots), Path("/proc"))


def commands(found: Remedy) -> list[str]:
    return [line for step in found.steps for line in step.command.splitlines()]


def test_the_digest_of_the_expectation_is_preferred() -> None:
    """The image is loaded again by the digest of a lock or the ledger, not by that in the changed store."""
    by_lock, by_store = remedy(expected=LOCKED), remedy()

    assert (by_lock.digest, by_lock.digest_by) == (str(LOCKED.digest), "the lock")
    assert f"boltseal pull --replace {NAME}@{LOCKED.digest}" in commands(by_lock)
    assert by_store.digest == str(PULLED)
    assert "compare it with your lock" in by_store.digest_by


@pytest.mark.parametrize("root", ["/var/lib/docker", "/var/lib/containerd"])
def test_the_new_image_is_checked_in_the_same_stores(root: str) -> None:
    """The last command names the stores that were given, since it would not find the image in the usual ones."""
    found = remedy(root=root, store=Path(root).name, roots=(Path("/srv/data root"), Path("/srv/other")))

    assert commands(found)[-1].startswith("boltseal scrub --root '/srv/data root' --root /srv/other reg.example/")


def test_only_containers_of_the_image_are_listed() -> None:
    """Only the containers on the image are listed; a running one has its process and the time of its start."""
    found = remedy(running=os.getpid())
    (use,) = found.containers

    assert (use.id, use.name, use.running) == ("c1", "web", os.getpid())
    assert use.since.endswith("Z")
    assert "docker stop web" in commands(found)
    assert "docker stop web" not in commands(remedy())


def test_a_typed_name_is_preferred_to_names_of_the_store() -> None:
    """The name that a person typed is pulled, whatever other names the store has."""
    found = remedy(names=("evil.example/shop/app:1.4.2", NAME), typed=NAME, expected=LOCKED)
    by_digest = remedy(
        names=("evil.example/x/y:1", NAME), typed=f"reg.example/shop/app@{LOCKED.digest}", expected=LOCKED
    )

    assert f"boltseal pull --replace {NAME}@{LOCKED.digest}" in commands(found)
    assert f"boltseal pull --replace {NAME}@{LOCKED.digest}" in commands(by_digest)


def test_an_image_that_no_registry_is_known_to_have_is_built_again() -> None:
    """Without any digest of a registry no pull is suggested."""
    found = remedy(names=("shop/app:1.4.2",))

    assert not any("pull" in each for each in commands(found))
    assert any("build or load the image again" in step.text for step in found.steps)


@pytest.mark.parametrize(
    ("store", "root", "id_", "expected"),
    [
        ("docker", "/var/lib/docker", ID, "docker rename web web-evidence"),
        ("containerd", "/var/lib/docker/containerd/daemon", PULLED, "docker rename web web-evidence"),
        ("podman", "/var/lib/containers/storage", ID, "podman rename web web-evidence"),
        ("containerd", "/var/lib/containerd", PULLED, "crictl pull"),
        ("archive", "/srv/image.tar", ID, "boltseal copy"),
    ],
    ids=["docker", "docker-containerd", "podman", "containerd", "archive"],
)
def test_each_engine_has_its_own_steps(store: str, root: str, id_: Digest, expected: str) -> None:
    """Each engine's steps use its own commands; with containerd alone the image has to be removed first."""
    found = remedy(store=store, root=root, id_=id_)

    assert any(each.startswith(expected) for each in commands(found))
    assert any("evidence" in step.text for step in found.steps)
    assert not any(word in each for each in commands(found) for word in (" rm ", " rmi ", "prune"))


KEPT = "reg.example/shop/app:boltseal-keep-0123456789ab"
MARK = "boltseal.invalid/changed:boltseal-keep-0123456789ab"


@pytest.mark.parametrize("running", [0, os.getpid()], ids=["gone", "running"])
def test_an_image_that_was_replaced_is_not_loaded_again(running: int) -> None:
    """An image with nothing but keep tags and the mark as evidence is not loaded again under its keep tag."""
    found = remedy(names=(KEPT, MARK, f"reg.example/shop/app@{PULLED}"), typed=KEPT, running=running)

    assert "the image was replaced" in found.steps[-1].text
    assert [each.split()[1] for each in commands(found)] == (["stop", "export", "rename"] if running else [])


@pytest.mark.parametrize("own", ["1.4.2", "latest"])
def test_an_image_with_keep_tags_is_loaded_again_by_its_own_name(own: str) -> None:
    """A changed image that has a name of its own beside keep tags and the mark is replaced under that name."""
    name = f"reg.example/shop/app:{own}"
    found = remedy(names=tuple(sorted((KEPT, MARK, name, f"reg.example/shop/app@{PULLED}"))))

    assert f"boltseal pull --replace {name}@{PULLED}" in commands(found)


@pytest.mark.parametrize(
    ("root", "program"), [("/var/lib/docker", "docker"), ("/var/lib/containers/storage", "podman")]
)
def test_a_containers_files_are_saved_before_its_name_is_given_free(root: str, program: str) -> None:
    """Compose removes renamed containers of its project, so their files are saved in a file first."""
    found = remedy(store=Path(root).name if program == "docker" else "podman", root=root)
    saved = commands(found).index(f"{program} export --output ./web-evidence.tar web")

    assert commands(found)[saved + 1] == f"{program} rename web web-evidence"


def test_names_from_the_store_are_quoted_for_a_shell() -> None:
    """A container's name from the store can't run a command of its own when the printed command is used."""
    found = remedy(container="web; rm -rf /\n$(evil)", running=os.getpid())
    (stop,) = [each for each in commands(found) if each.startswith("docker stop")]

    assert len(shlex.split(stop)) == 3
