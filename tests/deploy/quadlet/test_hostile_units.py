"""Unit files that a release must not be deceived by: refused with one line, or deployed with only the image changed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boltseal.deploy.quadlet.generator import parse_services, tokens_differ
from boltseal.deploy.quadlet.pinned_units import drop_ins_of
from boltseal.deploy.quadlet.unit_folders import UnitsInvalid
from boltseal.errors import BoltsealError
from tests.deploy.quadlet.units_project import UnitsProject, container, image

pytestmark = pytest.mark.real

APP = image("app:1")

REFUSED: dict[str, tuple[dict[str, str | bytes], str]] = {
    "auto-update": ({"a.container": container("app:1", "AutoUpdate=registry")}, "auto-update follows the tag"),
    "its label": ({"a.container": container("app:1", "Label=io.containers.autoupdate=registry")}, "auto-update"),
    "its label with an escape": (
        {"a.container": container("app:1", r"Label=io.containers.autoupdate\x3dregistry")},
        "auto-update",
    ),
    "its label as an argument": (
        {"a.container": container("app:1", "PodmanArgs=--label io.containers.autoupdate=registry")},
        "auto-update",
    ),
    "kube": ({"a.kube": "[Kube]\nYaml=a.yaml\n"}, "the images of a .kube are in its YAML"),
    "build": ({"a.build": "[Build]\nImageTag=x\nFile=./D\nSetWorkingDirectory=unit\n"}, "built here"),
    "of a build": ({"a.container": "[Container]\nImage=b.build\n"}, r"a\.container"),
    "rootfs": ({"a.container": "[Container]\nRootfs=/srv/x\n"}, "Rootfs= has no digest"),
    "specifier": ({"a@.container": "[Container]\nImage=hub.test/shop/app:%i\n"}, "specifiers of systemd are not"),
    "variable": ({"a.container": "[Container]\nImage=hub.test/shop/app:${V}\n"}, "variables are not evaluated"),
    "archive": ({"a.container": "[Container]\nImage=oci-archive:/srv/a.tar\n"}, "not in a registry"),
    "NUL": ({"a.container": b"[Container]\nImage=" + APP.encode() + b"\0\n"}, "NUL byte"),
    "unknown key": ({"a.container": container("app:1", "Imagee=x")}, "Podman's generator refuses it"),
    "other folder": ({"a.container": "[Container]\nImage=b.image\n"}, r"a\.container"),
    "image tag": ({"a.image": f"[Image]\nImage={APP}\nImageTag=localhost/x:1\n"}, "ImageTag= gives containers"),
    "volume": ({"a.volume": f"[Volume]\nDriver=image\nImage={APP}\n"}, "volume that exists"),
    "later drop-in": (
        {"a.container": container("app:1"), "a.container.d/zz.conf": "[Container]\nImage=hub.test/shop/app:1\n"},
        "a drop-in file does not decide its image|change more than the image",
    ),
    "no units": ({"a.network": "[Network]\n"}, "no unit with an image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_unit_whose_image_a_digest_would_not_decide_is_refused(shop: UnitsProject, name: str) -> None:
    """The message names the unit and the reason; nothing is recorded or written."""
    files, why = REFUSED[name]
    shop.publish("app:1", "one")
    shop.write(files)
    with pytest.raises(BoltsealError, match=why):
        shop.deploy()

    assert shop.releases.all() == ()
    assert not shop.drop_ins.link.is_symlink()


ODD: dict[str, dict[str, str | bytes]] = {
    "CRLF": {"a.container": container("app:1").replace("\n", "\r\n")},
    "continued": {"a.container": "[Container]\nImage=\\\n# a comment\nhub.test/shop/app:1\n"},
    "several": {"a.container": "[Container]\nImage=hub.test/shop/other:1\nImage=hub.test/shop/app:1\n"},
    "two sections": {"a.container": f"[Container]\nImage=x/y:1\n[Unit]\nDescription=d\n[Container]\nImage={APP}\n"},
    "drop-in of the user": {
        "a.container": container("old:1"),
        "a.container.d/10-a.conf": f"[Container]\nImage={APP}\n",
    },
    "looks like a service": {"a.container": container("app:1", "Environment=A=---b.service---") + "#---c.service---\n"},
    "another name": {"a.container": container("app:1", "ServiceName=other")},
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_unit_gets_its_image_and_keeps_the_rest(shop: UnitsProject, name: str) -> None:
    """What Podman understands is deployed as Podman understands it, and the files stay as they are."""
    digest = shop.publish("app:1", "one")
    shop.write(ODD[name])
    before = {path: path.read_bytes() for path in shop.folder.rglob("*") if path.is_file()}
    done = shop.deploy()

    assert [(each.image, each.digest) for each in done.release.services] == [(APP, str(digest))]
    assert set(shop.starts().values()) == {done.release.services[0].started_as}
    assert {path: path.read_bytes() for path in shop.folder.rglob("*") if path.is_file()} == before


def test_an_instance_gets_the_image_of_its_template(shop: UnitsProject) -> None:
    """A link `a@one.container` to its template has no image of its own."""
    shop.publish("app:1", "one")
    shop.write({"a@.container": container("app:1")})
    (shop.folder / "a@one.container").symlink_to("a@.container")
    done = shop.deploy()

    assert set(shop.drop_ins.current()) == {"a@.container"}
    assert set(shop.starts().values()) == {done.release.services[0].started_as}


def test_a_link_out_of_the_folder_is_refused(shop: UnitsProject) -> None:
    """A release records the files of its folder, and reads no others."""
    (shop.root / "secret").write_text("[Container]\nImage=x\n")
    (shop.folder / "a.container").symlink_to(shop.root / "secret")
    with pytest.raises(UnitsInvalid, match="a link out of the folder"):
        shop.deploy()

    assert shop.releases.all() == ()


VALUES = st.text(st.characters(codec="ascii", exclude_characters="\0\r\n"), max_size=20)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(description=VALUES, arguments=VALUES, value=VALUES)
def test_a_drop_in_file_changes_only_the_image(
    shop: UnitsProject, description: str, arguments: str, value: str
) -> None:
    """Whatever the other lines say, the services with and without the drop-in file differ in the image alone, or the unit is refused."""
    shop.publish("app:1", "one")
    shop.drop_ins.remove()
    lines = [f"Environment=A={value}", f"Exec={arguments}", "[Unit]", f"Description={description}"]
    shop.write({"a.container": container("app:1", *lines)})
    before = shop.generator.now().services
    try:
        done = shop.deploy()
    except BoltsealError:
        assert not shop.drop_ins.link.exists()
        return
    name = done.release.services[0].started_as
    for old, new in zip(before, shop.generator.now().services, strict=True):
        kept = [line for line in new.lines if line != f"Image={name}"]
        assert tokens_differ(old.lines, kept, {APP: name}) is None


@pytest.mark.parametrize(
    ("image", "setter"),
    [
        ("hub.test/shop/app:1", "../../../etc/systemd/system/ssh.service"),
        ("hub.test/shop/app:1", "/etc/x.container"),
        ("hub.test/shop/app:1", "x/../../y.container"),
        ("hub.test/shop/app:1", "ssh.service"),
        ("hub.test/shop/app:1", "a.container\n"),
        ("hub.test/shop/app:1", ""),
        ("hub.test/shop/app:1\n[Service]\nExecStartPre=/bin/sh -c id", "a.container"),
        ("hub.test/shop/app:1 --privileged", "a.container"),
        ("hub.test/shop/app:%i", "a.container"),
        ("b.build\n", "a.container"),
        ("", "a.container"),
    ],
)
def test_a_changed_record_writes_no_other_file_and_no_other_line(image: str, setter: str) -> None:
    """A release that was recorded by another program can neither leave the folder of drop-in files nor add settings to a unit."""
    with pytest.raises(UnitsInvalid, match="its record was changed; nothing was written"):
        drop_ins_of({"a.container": image}, {"a.container": setter})


def test_a_value_can_not_begin_another_service() -> None:
    """Only a whole line of the generator's own form begins a service."""
    found = parse_services("---a.service---\n[Unit]\nDescription=---b.service---\n---c.service---x\nX=1\n")

    assert [each.name for each in found] == ["a.service"]
    assert found[0].value("Unit", "Description") == "---b.service---"
