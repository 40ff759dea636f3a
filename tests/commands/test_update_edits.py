"""`update` in pinned projects: tag and digest change together, and unpinning gives back the unpinned text with the new tag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.commands.project_images import OpenedProject, open_project
from boltseal.commands.update_edits import UpdateEdits, update_edits, without_own_pins
from boltseal.deploy.compose_model import ComposeService
from boltseal.deploy.update_plan import UpdateAction, UpdateStep
from boltseal.errors import Unavailable
from boltseal.lockfile.document import Lock, LockedImage, Use, lock_key, sorted_lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.project.edits import ScanRequest, edit
from boltseal.project.pin import PinStatus, pins_by_lock, unpins
from boltseal.project.written_pins import carried_pins, pins_after, valid_pins
from tests.project.projects import put, written

OLD, NEW, FOREIGN = (Digest.of(text) for text in (b"old", b"new", b"foreign"))
VERSION, REVISION, FLOATING = "1.4.2", "1.4.2.1", "edge"

FORMS = {
    "plain": ("{image}", ""),
    "comment": ("{image}  # do not touch: 1.4.2", ""),
    "single": ("'{image}'", ""),
    "double": ('"{image}"', ""),
    "default": ("{name}:${{{key}_TAG:-{tag}}}", ""),
    "whole default": ("${{{key}_IMAGE:-{image}}}", ""),
    "variable": ("{name}:${{{key}_TAG}}", "{key}_TAG={tag}"),
    "commented variable": ("{name}:${key}_TAG", "{key}_TAG={tag} # 1.4.2 since May"),
    "whole variable": ("${{{key}_IMAGE}}", "{key}_IMAGE='{image}'"),
}
"""How a service names its image in the Compose file and in `.env`."""


def service_text(number: int, form: str, tag: str) -> tuple[str, str]:
    """Return a service's text, and its line of `.env`, with LF line ends."""
    key, name = f"S{number}", f"reg.test/s{number}"
    values = {"key": key, "name": name, "tag": tag, "image": f"{name}:{tag}"}
    image, env = (text.format(**values) for text in FORMS[form])
    return f"  s{number}:\n    image: {image}\n    environment: {{AT: '1.4.2'}}\n", env


def project_text(forms: list[str], tags: list[str], newline: str, end: str) -> dict[str, bytes]:
    """Return the files of a project. `end`: what ends the last line."""
    services = [service_text(number, form, tag) for number, (form, tag) in enumerate(zip(forms, tags, strict=True))]
    compose = "services:\n" + "".join(text for text, _ in services)
    env = "\n".join(["# variables", *(line for _, line in services if line)])
    found = {"compose.yaml": compose.removesuffix("\n") + end.replace("\r\n", "\n"), ".env": env + "\n"}
    return {name: text.replace("\n", newline).encode() for name, text in found.items()}


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in ("compose.yaml", ".env")}


def opened(root: Path) -> OpenedProject:
    return open_project(root, [root / "compose.yaml"])


def lock_all(root: Path, digest: Digest) -> Lock:
    """Return a lock of all references."""
    keys = {lock_key(each.unpinned) for each in opened(root).found.image_refs if each.unpinned}
    return sorted_lock([LockedImage(key, digest, 0) for key in keys], {})


def pin(root: Path, lock: Lock) -> Lock:
    """Pin the project by the lock; return the lock with its records."""
    project = opened(root)
    wanted = {
        each.image_ref: each.digest
        for each in pins_by_lock(project.image_refs, lock)
        if each.status is PinStatus.PINNED
    }
    done = edit(project.asked, project.found, wanted)

    assert done.refusals == ()
    put(root, done)
    return replace(lock, pins=pins_after(lock, project.image_refs, wanted, unpin=False))


def unpin(root: Path, lock: Lock) -> None:
    """Remove the digests that the lock records."""
    project = opened(root)
    pins = unpins(project.image_refs, valid_pins(project.image_refs, lock))
    put(
        root,
        edit(
            project.asked,
            project.found,
            {each.image_ref: each.digest for each in pins if each.status is PinStatus.UNPINNED},
        ),
    )


def steps_of(tags: list[str]) -> list[UpdateStep]:
    """Return a step for each service: a version gets its revision, a floating tag the new digest."""
    return [
        UpdateStep(
            f"s{number}",
            Reference.parse(f"reg.test/s{number}:{tag}"),
            UpdateAction.TAKE,
            "",
            NEW,
            Tag(REVISION) if tag == VERSION else None,
        )
        for number, tag in enumerate(tags)
    ]


def updated(root: Path, lock: Lock, tags: list[str]) -> Lock:
    """Update all services; return the lock that follows, with the records that are still valid."""
    done = update_edits(opened(root), lock, steps_of(tags))
    for change in done.files:
        (root / change.path).write_bytes(change.after.raw)
    after = lock_all(root, NEW)
    return replace(after, pins=carried_pins(done.lock.pins, opened(root).image_refs, after, lambda _: False))


@given(
    services=st.lists(
        st.tuples(st.sampled_from(sorted(FORMS)), st.sampled_from([VERSION, FLOATING])), min_size=1, max_size=4
    ),
    newline=st.sampled_from(["\n", "\r\n"]),
    end=st.sampled_from(["", "\n"]),
    foreign=st.booleans(),
)
def test_unpinning_an_updated_project_gives_the_unpinned_text_with_the_new_tags(
    services: list[tuple[str, str]], newline: str, end: str, foreign: bool
) -> None:
    """Pinned, updated and unpinned, a project has the bytes that an update of the unpinned project gives."""
    forms, tags = [form for form, _ in services], [tag for _, tag in services]
    new_tags = [REVISION if tag == VERSION else tag for tag in tags]
    with TemporaryDirectory() as folder:
        root = written(Path(folder), project_text(forms, tags, newline, end))
        if foreign:  # another tool pinned a reference before `boltseal pin` did
            found = opened(root)
            put(root, edit(found.asked, found.found, {found.found.image_refs[0]: FOREIGN}))
        pinned = pin(root, lock_all(root, OLD))
        lock = updated(root, pinned, tags)
        after = [each.resolved for each in opened(root).found.image_refs]
        unpin(root, lock)
        unpinned = contents(root)

    restored = foreign and tags[0] == FLOATING  # the digest that was there before belongs to the tag that stays
    expected = (with_digest if restored else project_text)(forms, new_tags, newline, end)
    assert after == [Reference.parse(f"reg.test/s{number}:{tag}@{NEW}") for number, tag in enumerate(new_tags)]
    assert len(lock.pins) == len(services)
    assert unpinned == expected


def with_digest(forms: list[str], tags: list[str], newline: str, end: str) -> dict[str, bytes]:
    """Return the files of a project whose first reference another tool pinned."""
    with TemporaryDirectory() as folder:
        root = written(Path(folder), project_text(forms, tags, newline, end))
        project = opened(root)
        put(root, edit(project.asked, project.found, {project.found.image_refs[0]: FOREIGN}))
        return contents(root)


def compose_project(root: Path, compose: str, env: str = "") -> Path:
    """Write a project of services, given as lines below `services:`."""
    return written(root, {"compose.yaml": f"services:\n{compose}", ".env": env})


def service(image: str, name: str = "s0") -> ComposeService:
    return ComposeService(name, Reference.parse(image), False, 1, {}, ())


def edits(root: Path, lock: Lock, *steps: UpdateStep) -> Mapping[str, str]:
    """Return the new texts of an update."""
    return {each.path: each.after.text for each in update_edits(opened(root), lock, steps).files}


def test_a_variable_of_two_services_is_changed_once_with_its_digest(tmp_path: Path) -> None:
    """A pinned value in `.env` that two services use whole is changed once, tag and digest, when both are updated."""
    image = "reg.test/s0:1.4.2"
    compose = "".join(f"  s{number}:\n    image: ${{IMAGE}}\n" for number in range(2))
    root = compose_project(tmp_path, compose, f"IMAGE={image}\n")
    lock = pin(root, lock_all(root, OLD))
    [step] = steps_of([VERSION])

    assert (root / ".env").read_text() == f"IMAGE={image}@{OLD}\n"
    assert edits(root, lock, step, replace(step, service="s1")) == {".env": f"IMAGE=reg.test/s0:1.4.2.1@{NEW}\n"}
    with pytest.raises(Unavailable, match=r"s1\.image would not name the expected image; nothing was written"):
        edits(root, lock, step)


def test_a_digest_that_pin_did_not_write_stays(tmp_path: Path) -> None:
    """A service with a digest that the lock does not record keeps its image; one whose files all have recorded digests is
    decided about by its tag."""
    ours, theirs = f"reg.test/s0:1.4.2@{OLD}", f"reg.test/s1:1.4.2@{FOREIGN}"
    root = compose_project(tmp_path, f"  s0:\n    image: reg.test/s0:1.4.2\n  s1:\n    image: {theirs}\n")
    lock = pin(
        root,
        sorted_lock(
            [
                LockedImage(Reference.parse("reg.test/s0:1.4.2"), OLD, 0),
                LockedImage(Reference.parse("reg.test/s1:1.4.2"), FOREIGN, 0),
            ],
            {},
        ),
    )
    services = [service(ours), service(theirs, "s1")]
    (root / "compose.override.yaml").write_text(f"services: {{s0: {{image: '{ours}'}}}}\n")
    both = open_project(root, [root / "compose.yaml", root / "compose.override.yaml"])

    assert [str(each.image) for each in without_own_pins(services, opened(root), lock)] == ["reg.test/s0:1.4.2", theirs]
    assert [str(each.image) for each in without_own_pins(services, both, lock)] == [ours, theirs]


def test_a_digest_that_pin_did_not_write_stays_beside_an_updated_override(tmp_path: Path) -> None:
    """Where an override names the image, the base file's digest of another tool stays, also for the same tag, and so does
    another image."""
    root = compose_project(
        tmp_path, f"  s0:\n    image: reg.test/s0:1.4.2@{FOREIGN}\n  s1:\n    image: reg.test/other:1.4.2\n"
    )
    override = "services:\n  s0:\n    image: reg.test/s0:1.4.2\n  s1:\n    image: reg.test/s1:1.4.2\n"
    (root / "compose.override.yaml").write_text(override)
    project = open_project(root, [root / "compose.yaml", root / "compose.override.yaml"])
    done = update_edits(project, Lock(), steps_of([VERSION, VERSION]))

    assert {each.path: each.after.text for each in done.files} == {
        "compose.override.yaml": override.replace(VERSION, REVISION)
    }


def test_an_image_that_no_file_names_is_refused(tmp_path: Path) -> None:
    """If a variable of the shell names another version than the files, the update is refused and says so."""
    root = compose_project(tmp_path, "  s0:\n    image: reg.test/s0:1.3.0\n")

    with pytest.raises(Unavailable, match=r"s0: reg.test/s0:1.4.2: not found in the files"):
        edits(root, Lock(), *steps_of([VERSION]))


def test_a_floating_tag_moves_in_every_place_that_pin_wrote(tmp_path: Path) -> None:
    """A floating tag has one locked digest, so every digest of it that `pin` wrote into the files of the update moves with it;
    files outside the update are named."""
    root = compose_project(
        tmp_path,
        "  s0:\n    image: reg.test/s0:edge\n  s1:\n    image: reg.test/s0:edge\n  s2:\n    image: reg.test/s0\n",
    )
    (root / "job.Dockerfile").write_text("FROM reg.test/s0:edge\n")
    whole = open_project(root)
    lock = sorted_lock(
        [
            LockedImage(
                key,
                OLD,
                0,
                used=tuple(
                    Use(each.path, each.where)
                    for each in whole.image_refs
                    if each.resolved and each.resolved.by_tag == key
                ),
            )
            for key in {each.resolved.by_tag for each in whole.image_refs if each.resolved}
        ],
        {},
    )
    wanted = dict.fromkeys(whole.image_refs, OLD)
    put(root, edit(ScanRequest(whole.asked.project), whole.found, wanted))
    lock = replace(lock, pins=pins_after(lock, whole.image_refs, wanted, unpin=False))
    done: UpdateEdits = update_edits(opened(root), lock, steps_of([FLOATING]))
    [compose] = done.files

    assert compose.after.text.count(f"edge@{NEW}") == 2
    assert f"reg.test/s0@{OLD}" in compose.after.text
    assert done.left == ("job.Dockerfile",)


def test_a_pinned_name_without_a_tag_is_updated_by_its_digest(tmp_path: Path) -> None:
    """A name without a tag gets another digest, and still has no tag."""
    root = compose_project(tmp_path, "  s0:\n    image: reg.test/s0  # 1.4.2\n")
    lock = pin(root, lock_all(root, OLD))
    step = replace(steps_of(["latest"])[0], tag=None)

    assert edits(root, lock, step) == {"compose.yaml": f"services:\n  s0:\n    image: reg.test/s0@{NEW}  # 1.4.2\n"}
