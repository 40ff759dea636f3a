"""Reports of hosts are checked before anything uses them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from boltseal.oci.jsontext import decode
from boltseal.policy.host_report import (
    MAX_DIGESTS,
    MAX_IMAGES,
    HostReport,
    ReportDocument,
    ReportInvalid,
    check_host_name,
    default_host_name,
    due_us,
    parse_report,
    repository_here,
)
from tests.host_documents import release, report, running

D1, D2 = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def parsed(document: dict[str, Any]) -> HostReport:
    return parse_report(decode(msgspec.json.encode(document), ReportDocument))


def test_a_report_has_the_images_as_the_registry_names_them() -> None:
    """Images of the registry have their repository, those of others the other registry before it."""
    images = [
        running("registry.example/shop/app:1.4.2", D1, D2, D1),
        running("node:16", D2),
        running("sha256:" + "1" * 64, D2),
    ]
    found = parsed(report("web-1", *images))

    assert [(each.repository, each.tag) for each in found.images] == [
        ("shop/app", "1.4.2"),
        ("docker.io/library/node", "16"),
        ("", ""),
    ]
    assert [str(each) for each in found.images[0].digests] == [D1, D2]


def test_an_image_without_a_tag_has_none() -> None:
    """A reference by digest alone names its repository."""
    assert repository_here(f"registry.example/shop/app@{D1}", "registry.example") == ("shop/app", "")


def test_a_release_belongs_to_a_deploy_and_to_nothing_else() -> None:
    """A report of a deploy without a release, and one of containers with one, are refused."""
    good = release("shop", 7, running("registry.example/shop/app:1", D1))
    document = parsed(report("web-1") | good).document

    assert document.release is not None
    assert document.release.number == 7
    with pytest.raises(ReportInvalid, match="has no release"):
        parsed(report("web-1") | good | {"release": None})
    with pytest.raises(ReportInvalid, match="has a release"):
        parsed(report("web-1", release=good["release"]))


@pytest.mark.parametrize("time", ["2026-99-99T00:00:00Z", "2026-02-30T08:00:00Z", "0000-01-01T00:00:00Z"])
def test_a_time_is_one_of_the_calendar(time: str) -> None:
    """Pages and commands compute with each time of a report."""
    image = running("registry.example/shop/app:1", D1)
    good = report("web-1", image) | release("shop", 7, image)
    with pytest.raises(ReportInvalid, match="since of the report is"):
        parsed(report("web-1", image | {"since": time}))
    with pytest.raises(ReportInvalid, match="started of the report"):
        parsed(good | {"release": good["release"] | {"started": time}})
    with pytest.raises(ReportInvalid, match="time of the report"):
        parsed(good | {"time": time})


@pytest.mark.parametrize("name", ["", "Web", "web 1", "-web", "web-", "../x", "w" * 101, "wéb", "web\n"])
def test_a_name_of_a_host_is_plain(name: str) -> None:
    """Names are safe in URLs, tables and logs."""
    with pytest.raises(ReportInvalid, match="is not a name of a host"):
        check_host_name(name)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"kind": "env"},
        {"every_s": 1},
        {"environment": {"PASSWORD": "x"}},
        {"images": [running("a", "sha256:12")]},
        {"images": [running("a", *[D1] * (MAX_DIGESTS + 1))]},
        {"images": [running("a", D1)] * (MAX_IMAGES + 1)},
        {"images": [running("a" * 513, D1)]},
        {"images": [running("a", D1, env=["PASSWORD=x"])]},
        {"counts": {"holds": -1}},
        {"time": "yesterday"},
    ],
)
def test_a_document_that_is_malformed_or_too_large_is_refused(change: dict[str, Any]) -> None:
    """Unknown keys, such as the environment of a container, are refused too."""
    with pytest.raises((msgspec.ValidationError, ReportInvalid)):
        parsed(report("web-1") | change)


@pytest.mark.parametrize(
    "change",
    [{"subject": "a\x1b[2J"}, {"images": [running("a", D1, reason="a\nb")]}, release("shop", 1, reason="a\x00")],
)
def test_text_that_cannot_be_printed_is_refused(change: dict[str, Any]) -> None:
    """No report moves the cursor of a terminal or begins another line."""
    with pytest.raises(ReportInvalid, match="expected printable"):
        parsed(report("web-1") | change)


def test_a_host_has_a_name_of_its_own_by_default() -> None:
    """Machines of one node name differ by their machine ID, which the name does not reveal."""
    one, two = default_host_name("Web 1.example", "a" * 32), default_host_name("Web 1.example", "b" * 32)

    assert one.startswith("web-1.example-")
    assert one != two
    assert "aaaa" not in one
    assert check_host_name(one) == one
    assert default_host_name("web", "") == "web"
    assert default_host_name("---", "") == "host"


def test_a_report_is_overdue_a_quarter_of_its_interval_late() -> None:
    """A schedule with a random delay does not make a host look stopped."""
    assert due_us(1_000_000, 100) == 126_000_000
    assert due_us(1_000_000, None) is None
