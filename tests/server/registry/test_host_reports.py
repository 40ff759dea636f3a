"""What hosts run, by their reports, is kept when its time is over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import Tag
from boltseal.policy.host_report import ReportDocument, parse_report
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.host_reports import HostLimits, HostReports, HostsTooMany
from boltseal.server.storage.metadata.host_table import ImageFilter
from tests.bare_registry import DAY_US, INDEX, OCI, SHOP
from tests.host_documents import report, running

if TYPE_CHECKING:
    from tests.bare_registry import BareRegistry, Opener

ADMIN, HOSTS = Actor("root", admin=True), Actor("hosts")


async def accept(
    shop: BareRegistry, document: dict[str, Any], actor: Actor = HOSTS, reports: HostReports | None = None
) -> int:
    """Have a registry store a report."""
    return await (reports or shop.registry.host_reports).accept(
        parse_report(decode(msgspec.json.encode(document), ReportDocument)), actor
    )


async def test_what_runs_does_not_expire_until_its_host_is_forgotten(open_shop: Opener) -> None:
    """A report of years ago keeps as one of today does; the plan and the change have the same reason."""
    shop = open_shop({"tag": "*", "mode": "sealed", "keep": "1d"})
    one, two = await shop.image("one"), await shop.image("two")
    await shop.push(one, "1.4.2")
    await shop.push(two, "1.4.3")
    await accept(shop, report("web-2", running("elsewhere.example/copy:1", str(Digest.of(one)))))
    await accept(shop, report("web-1", running("elsewhere.example/copy:1", str(Digest.of(one)))))
    shop.clock.now_us += 1000 * DAY_US
    planned = await shop.registry.seals.expire(ADMIN, dry_run=True)
    done = await shop.registry.seals.expire(ADMIN)
    for name in ("web-1", "web-2"):
        await shop.registry.host_reports.forget(name, ADMIN, dry_run=False)
    after = await shop.registry.seals.expire(ADMIN)

    assert planned == done
    assert done.expired == [(SHOP, Tag("1.4.3"))]
    assert [(each.tag, each.reason.partition(", ")[0]) for each in done.kept] == [
        (Tag("1.4.2"), "host web-1 and 1 more runs it")
    ]
    assert (after.expired, after.kept) == ([(SHOP, Tag("1.4.2"))], [])


@pytest.mark.parametrize("runs", ["index", "child", "config", "sha512"])
async def test_an_image_is_kept_by_any_digest_of_it_or_its_parts(open_shop: Opener, runs: str) -> None:
    """Engines report the digest of the index, of the platform's manifest, or only that of the configuration."""
    shop = open_shop({"tag": "*", "mode": "sealed", "keep": "1d"})
    child = await shop.image("one")
    await shop.push(child, Digest.of(child))
    entry = {"mediaType": OCI, "digest": str(Digest.of(child)), "size": len(child)}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    await shop.push(index, Digest.of(index, "sha512"), media_type=INDEX)
    await shop.push(index, "1.4.2", media_type=INDEX)
    digest = {
        "index": str(Digest.of(index)),
        "child": str(Digest.of(child)),
        "config": json.loads(child)["config"]["digest"],
        "sha512": str(Digest.of(index, "sha512")),
    }[runs]
    await accept(shop, report("web-1", running("registry.example/shop/app:1.4.2", digest)))
    shop.clock.now_us += 1000 * DAY_US
    done = await shop.registry.seals.expire(ADMIN)

    assert (done.expired, [each.tag for each in done.kept]) == ([], [Tag("1.4.2")])


async def test_a_report_that_no_longer_names_an_image_keeps_it_no_more(open_shop: Opener) -> None:
    """The newest complete report of an engine replaces the one before."""
    shop = open_shop({"tag": "*", "mode": "sealed", "keep": "1d"})
    one = await shop.image("one")
    await shop.push(one, "1.4.2")
    await accept(shop, report("web-1", running("app", str(Digest.of(one)))))
    await accept(shop, report("web-1"))
    shop.clock.now_us += 1000 * DAY_US

    assert (await shop.registry.seals.expire(ADMIN)).expired == [(SHOP, Tag("1.4.2"))]


async def test_the_hosts_of_a_login_are_limited(shop: BareRegistry) -> None:
    """A login that names hosts without end is refused; the hosts of others are not."""
    reports = HostReports(shop.database, HostLimits(hosts_of_login=2))
    await accept(shop, report("web-1"), reports=reports)
    await accept(shop, report("web-2"), reports=reports)
    with pytest.raises(HostsTooMany, match="hosts reports 2 hosts of 2"):
        await accept(shop, report("web-3"), reports=reports)
    await accept(shop, report("web-1"), reports=reports)
    await accept(shop, report("db-1"), Actor("others"), reports)
    found = await reports.hosts("", 10, None)

    assert [each.name for each in found.hosts] == ["db-1", "web-1", "web-2"]


async def test_incomplete_reports_do_not_collect_images_without_end(shop: BareRegistry) -> None:
    """A host whose reports are never complete is refused at the limit, and what it reported before stays."""
    reports = HostReports(shop.database, HostLimits(collected=2))
    for number in range(2):
        document = report("web-1", running("app", f"sha256:{number:064}"), complete=False)
        await accept(shop, document, reports=reports)
    with pytest.raises(HostsTooMany, match="send a complete one"):
        await accept(shop, report("web-1", running("app", f"sha256:{9:064}"), complete=False), reports=reports)
    page = await reports.images(("", "", "", 0), 10, ImageFilter(), None)

    assert len(page.images) == 2
