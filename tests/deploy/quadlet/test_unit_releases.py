"""Releases of Quadlet units: what the generator makes of them after a deploy, a rollback, a kill and a failed write."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path

import pytest

from boltseal.deploy.compose_model import LockMismatch
from boltseal.deploy.holds import Held, holding, without_hold
from boltseal.deploy.quadlet.unit_deployer import UnitsDiffer
from boltseal.deploy.quadlet.unit_folders import read_units
from boltseal.deploy.release_store import ReleasesUnusable
from boltseal.deploy.releases import ReleaseEnd, ReleaseInvalid, check_kind
from boltseal.errors import BoltsealError
from tests.deploy.quadlet.units_project import Killed, UnitsProject, container, image

pytestmark = pytest.mark.real

UNITS = {
    "web.container": container("app:1", "Pod=front.pod", "Exec=serve hub.test/shop/app:1"),
    "front.pod": "[Pod]\n",
    "db.container": "[Container]\nImage=db.image\n",
    "db.image": f"[Image]\nImage=docker://{image('db:1')}\n",
    "job@.container": container("app:1"),
    "data.volume": "[Volume]\n",
}


def two_releases(shop: UnitsProject) -> tuple[dict[str, str], dict[str, str]]:
    """Deploy release 1, lock other digests, and return what services start now, and what they start in release 2."""
    shop.write(UNITS)
    shop.publish("app:1", "one"), shop.publish("db:1", "db one")
    shop.deploy()
    first = shop.starts()
    shop.publish("app:1", "two"), shop.publish("db:1", "db two")
    shop.deploy()
    second = shop.starts()
    shop.rollback()
    _end_holds(shop)
    return first, second


def test_every_service_starts_the_locked_digest_and_nothing_else_changes(shop: UnitsProject) -> None:
    """A `.container`, a template, an `.image` and the container that names it get their digests; `Exec=` with the same words does not."""
    shop.write(UNITS)
    app, db = shop.publish("app:1", "one"), shop.publish("db:1", "db")
    before = {path.name: path.read_bytes() for path in shop.folder.iterdir()}
    bare = {each.name: each for each in shop.generator.now().services}
    done = shop.deploy()
    after = {each.name: each for each in shop.generator.now().services}

    names = {each.name: each.started_as for each in done.release.services}

    assert done.release.end is ReleaseEnd.WRITTEN
    assert {each.name: each.digest for each in done.release.services} == {
        "web.container": str(app),
        "job@.container": str(app),
        "db.container": str(db),
        "db.image": str(db),
    }
    assert shop.starts() == {
        "web.service": names["web.container"],
        "db.service": names["db.image"],
        "db-image.service": names["db.image"],
        "job@.service": names["job@.container"],
    }
    assert after["web.service"].value("Service", "ExecStart").endswith(" serve hub.test/shop/app:1")
    assert after["front-pod.service"] == bare["front-pod.service"]
    assert after["data-volume.service"] == bare["data-volume.service"]
    assert {path.name: path.read_bytes() for path in shop.folder.iterdir()} == before
    assert {each.name: each.image for each in done.release.services}["db.container"] == image("db:1")


def test_a_second_deploy_of_the_same_changes_nothing(shop: UnitsProject) -> None:
    """Equal units, lock and drop-in files are the release that is there."""
    shop.write(UNITS)
    shop.publish("app:1", "one"), shop.publish("db:1", "db")
    shop.deploy()
    link = shop.drop_ins.link.readlink()
    again = shop.deploy()

    assert again.outcome is None
    assert shop.drop_ins.link.readlink() == link
    assert len(shop.releases.all()) == 1


def test_a_removed_drop_in_file_is_written_again(shop: UnitsProject) -> None:
    """Units that run by their tag are not the release, so the next deploy is a new one."""
    shop.write(UNITS)
    shop.publish("app:1", "one"), shop.publish("db:1", "db")
    shop.deploy()
    expected = shop.starts()
    shop.drop_ins.link.unlink()
    done = shop.deploy()

    assert done.release.number == 2
    assert shop.starts() == expected


def test_a_rollback_goes_back_and_holds_what_it_took_back(shop: UnitsProject) -> None:
    """The former digests are started again; deploying the held ones is refused until the hold is ended."""
    first, second = two_releases(shop)
    shop.deploy()
    now = shop.starts()
    done = shop.rollback()

    assert now == second
    assert shop.starts() == first
    assert (done.release.of, done.release.hold) == (3, True)
    with pytest.raises(Held, match="Nothing was started"):
        shop.deploy()
    with pytest.raises(Held, match="is a rollback already"):
        shop.rollback()
    assert shop.starts() == first


def test_a_rollback_with_other_units_is_refused(shop: UnitsProject) -> None:
    """Drop-in files set only images, so that a rollback to units that have changed would be a release that never was."""
    two_releases(shop)
    shop.deploy()
    now = shop.starts()
    shop.write({"web.container": container("app:1", "Environment=A=b")})
    with pytest.raises(UnitsDiffer, match=r"web.container.*--restore-files"):
        shop.rollback()
    shop.write({"web.container": UNITS["web.container"], "new.container": container("app:1")})
    with pytest.raises(UnitsDiffer, match="remove new"):
        shop.rollback()
    (shop.folder / "new.container").unlink()

    assert shop.starts() == now


def test_a_kill_at_each_write_leaves_one_of_both_releases(shop: UnitsProject) -> None:
    """After a kill before or after any write, all services start the former digests, or all the new ones; the next deploy finishes."""
    first, second = two_releases(shop)
    seen, base = set(), shop.releases.all()[-1].number
    for after in (False, True):
        for at in itertools.count(1):
            shop.disk.writes, shop.disk.at, shop.disk.after = 0, at, after
            killed = True
            with suppress(Killed):
                shop.deploy()
                killed = False
            shop.disk.at = None
            now = shop.starts()

            assert now in (first, second), (at, after)
            seen.add(now == second)
            if not killed:
                break
            if any(each.unfinished for each in shop.releases.all()):
                shop.resume()
                assert shop.starts() == second
            base = shop.rollback(base).release.number
            assert shop.starts() == first
            _end_holds(shop)

    assert seen == {False, True}


def test_each_write_that_fails_leaves_one_of_both_releases(shop: UnitsProject) -> None:
    """A write that fails before or after it was done fails the release or its record; the services start one of both releases."""
    first, second = two_releases(shop)
    shop.disk.error, base = True, shop.releases.all()[-1].number
    for after in (False, True):
        for at in itertools.count(1):
            shop.disk.writes, shop.disk.at, shop.disk.after = 0, at, after
            failed = True
            with suppress(BoltsealError):
                failed = not shop.deploy().release.good
            shop.disk.at = None

            assert shop.starts() in (first, second), (at, after)
            if not failed:
                break
            if any(each.unfinished for each in shop.releases.all()):
                shop.resume()
            base = shop.rollback(base).release.number
            assert shop.starts() == first
            _end_holds(shop)

    assert shop.starts() == second


def test_what_runs_is_recorded_before_the_first_release(shop: UnitsProject) -> None:
    """The container that a unit runs by its tag is kept, and is release 0, to which a rollback goes."""
    shop.write({"web.container": container("app:1")})
    shop.publish("app:1", "one")
    runs = shop.host.fake.image("former", image("app:1"))
    shop.host.fake.container(
        "systemd-web", image("app:1"), runs, State={"Status": "running"}, labels={"PODMAN_SYSTEMD_UNIT": "web.service"}
    )
    shop.deploy()
    found = shop.releases.read(0)
    back = shop.rollback(0)

    assert found.services[0].image_id == str(runs)
    assert "boltseal-keep-" in shop.starts()["web.service"]
    assert back.release.good


def test_an_image_that_is_not_locked_is_refused(shop: UnitsProject) -> None:
    """Without a digest in lock or unit nothing is changed."""
    shop.write({"web.container": container("app:1")})
    with pytest.raises(LockMismatch, match=r"web.container: hub.test/shop/app:1 is not in boltseal.lock"):
        shop.deploy()

    assert not shop.drop_ins.link.exists()
    assert shop.releases.all() == ()


def test_a_foreign_file_in_place_of_the_link_is_left(shop: UnitsProject) -> None:
    """A folder of that name that boltseal did not make stays as it is, and the deploy is refused."""
    shop.write({"web.container": container("app:1")})
    shop.publish("app:1", "one")
    (shop.searched / "boltseal-shop").mkdir()
    with pytest.raises(ReleasesUnusable, match="is not boltseal's"):
        shop.deploy()

    assert list((shop.searched / "boltseal-shop").iterdir()) == []


def test_a_project_of_units_is_not_one_of_compose(shop: UnitsProject) -> None:
    """A Compose deploy under the name of a project of units is refused, since it would not replace them."""
    shop.write({"web.container": container("app:1")})
    shop.publish("app:1", "one")
    shop.deploy()

    with pytest.raises(ReleaseInvalid, match="use --quadlet"):
        check_kind(shop.releases.all(), "shop", units=False)


def test_units_that_podman_does_not_read_are_refused(shop: UnitsProject, tmp_path: Path) -> None:
    """A folder outside of Podman's is named, with what to do."""
    shop.publish("app:1", "one")
    shop.write({"web.container": container("app:1")})
    (shop.searched / "shop").unlink()
    with pytest.raises(BoltsealError, match=r"does not read .*link that folder"):
        shop.deploy()
    (shop.searched / "web.container").write_text(container("app:1"))
    with pytest.raises(BoltsealError, match="uses another file of this name"):
        shop.deploy()

    assert read_units(shop.folder).units == ("web.container",)


def _end_holds(shop: UnitsProject) -> None:
    with shop.releases.deploying():
        for each in holding(shop.releases.all()):
            shop.releases.write(without_hold(each))
