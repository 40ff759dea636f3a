"""`outdated --explain` at a listening registry: what changed in the ancestor that moved, and whether it reaches the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx2
import pytest

from tests.cli.program import Run, call
from tests.images import Blob, Document
from tests.packaged_images import DPKG, dpkg, image_of, layer_of
from tests.servers import Server
from tests.tar_images import index_of, push_document

pytestmark = [pytest.mark.slow]
NAME, DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
OS = layer_of({DPKG: dpkg(bash="5.1", openssl="3.0.1"), "usr/lib/libssl.so": b"3.0.1"})
FIXED = layer_of({DPKG: dpkg(bash="5.1", openssl="3.0.2"), "usr/lib/libssl.so": b"3.0.2"})
RT = layer_of({"usr/bin/rt": b"rt"})
UPGRADE = layer_of({DPKG: dpkg(bash="5.1", openssl="3.0.2", own="1"), "usr/lib/libssl.so": b"3.0.2"})


class Shop:
    """A registry with an app on a runtime on a system; the system moves."""

    def __init__(self, server: Server) -> None:
        self.address = server.address
        self._client = httpx2.Client(base_url=server.url, trust_env=False)

    def push(self, repository: str, tag: str, *layers: Blob, base: tuple[str, Document] | None = None) -> Document:
        annotations = {} if base is None else {NAME: f"{self.address}/{base[0]}", DIGEST: base[1].digest}
        image = image_of(*layers, annotations=annotations)
        push_document(self._client, repository, tag, image)
        return image

    def put(self, repository: str, tag: str, image: Document) -> None:
        push_document(self._client, repository, tag, image)

    def delete(self, repository: str, image: Document) -> None:
        answer = self._client.delete(f"/v2/{repository}/manifests/{image.digest}")

        assert answer.status_code == 202

    def explained(self, form: str, *tags: str) -> Run:
        names = [f"{self.address}/shop/app:{tag}" for tag in tags]
        others = [f"{self.address}/base/{name}:latest" for name in ("os", "rt")]
        return call("outdated", "--window", "0s", "--explain", form, *others, *names)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def shop(server: Server) -> Iterator[Shop]:
    made = Shop(server)
    os = made.push("base/os", "latest", OS)
    rt = made.push("base/rt", "latest", OS, RT, base=("base/os:latest", os))
    on_rt = ("base/rt:latest", rt)
    made.push("shop/app", "plain", OS, RT, layer_of({"app": b"x"}), base=on_rt)
    made.push("shop/app", "upgraded", OS, RT, UPGRADE, base=on_rt)
    made.push("base/os", "latest", FIXED)
    yield made
    made.close()


def rows(result: Run) -> Mapping[str, Mapping[str, object]]:
    return {row["ref"].rpartition("/")[2]: row["explanation"] for row in result.json["results"] if "explanation" in row}


def test_the_change_of_the_ancestor_that_moved_is_explained(shop: Shop) -> None:
    """Only the base's base moved: its packages and files are compared, and looked up in each image above."""
    result = shop.explained("json", "plain", "upgraded")
    found = rows(result)

    assert result.code == 1, result.err
    assert {name: each["reach"] for name, each in found.items()} == {
        "rt:latest": "reaches",
        "app:plain": "reaches",
        "app:upgraded": "does not reach",
    }
    plain = found["app:plain"]
    assert plain["base"] == f"{shop.address}/base/os:latest"
    assert plain["packages"] == {
        "changed": 1,
        "states": {"former": 1},
        "reason": None,
        "from": "package databases in the layers",
        "listed": [
            {"kind": "deb", "name": "openssl", "was": "3.0.1", "now": "3.0.2", "image": "3.0.1", "state": "former"}
        ],
    }
    assert plain["files"] == {
        "changed": 2,
        "states": {"former": 2},
        "reason": None,
        "copies": 0,
        "listed": ["/usr/lib/libssl.so", f"/{DPKG}"],
    }


def test_the_text_fits_a_terminal(shop: Shop) -> None:
    """As text the chain, the result, packages and files are below the image, in 80 columns."""
    result = shop.explained("text", "plain", "upgraded")
    lines = " ".join(result.out.split())

    assert "reaches yes: it has 1 of 1 changed packages and 2 of 2 changed files as before the change" in lines
    assert "openssl 3.0.1 -> 3.0.2 (deb), here 3.0.1: as before" in lines
    assert "reaches no: it has none of the changed packages" in lines
    assert "openssl 3.0.1 -> 3.0.2 (deb), here 3.0.2: as in the new base" in lines
    assert max(len(line) for line in result.out.splitlines() if "sha256:" not in line) <= 80


def test_the_markdown_has_a_table_of_all_images_and_a_section_for_each_outdated_one(shop: Shop) -> None:
    """As Markdown stdout has a table of the results, and for each outdated image what changed and its own version."""
    result = shop.explained("md", "plain", "upgraded")

    assert result.out.startswith("| image | result |\n|---|---|\n")
    assert f"| `{shop.address}/base/os:latest` | no base |" in result.out
    assert f"### `{shop.address}/shop/app:plain` (`linux/amd64`)" in result.out
    assert "| `openssl` | `3.0.1` | `3.0.2` | `3.0.1` | as before |" in result.out
    assert "| `openssl` | `3.0.1` | `3.0.2` | `3.0.2` | as in the new base |" in result.out


def test_without_the_option_nothing_is_explained(shop: Shop) -> None:
    """Without --explain no image has an explanation."""
    result = call("outdated", "--window", "0s", "--json", f"{shop.address}/shop/app:plain")

    assert result.code == 1
    assert rows(result) == {}


def test_a_deleted_former_base_could_not_be_checked(shop: Shop) -> None:
    """If the former image of the base was deleted, what changed is `could not check`, with the reason."""
    shop.delete("base/os", image_of(OS, annotations={}))
    found = rows(shop.explained("json", "plain"))["app:plain"]

    assert found["reach"] == "could not check"
    assert f"the former image of {shop.address}/base/os:latest can't be read" in str(found["reason"])


def test_each_platform_is_explained(shop: Shop) -> None:
    """Of an image for two platforms each outdated one has its own explanation."""
    arm = layer_of({DPKG: dpkg(openssl="3.0.1")})
    os = index_of(image_of(OS), image_of(arm, architecture="arm64"))
    shop.put("base/two", "latest", os)
    annotations = {NAME: f"{shop.address}/base/two:latest", DIGEST: os.digest}
    parts = [
        image_of(OS, layer_of({"app": b"x"}), annotations=annotations),
        image_of(arm, layer_of({DPKG: dpkg(openssl="3.0.2")}), architecture="arm64", annotations=annotations),
    ]
    shop.put("shop/app", "two", index_of(*parts))
    fixed = layer_of({DPKG: dpkg(openssl="3.0.2")})
    shop.put("base/two", "latest", index_of(image_of(FIXED), image_of(fixed, architecture="arm64")))
    result = shop.explained("json", "two")
    [row] = [row for row in result.json["results"] if row["ref"].endswith(":two")]
    text = shop.explained("text", "two")

    assert [(each["platform"], each["explanation"]["reach"]) for each in row["platforms"]] == [
        ("linux/amd64", "reaches"),
        ("linux/arm64", "does not reach"),
    ]
    assert "platform  linux/arm64" in text.out


def test_hostile_paths_and_packages_stay_text(shop: Shop) -> None:
    """Names of an image with Markdown, HTML and control characters stay text in the terminal and in Markdown."""
    was = layer_of({DPKG: dpkg(**{"a|b`c": "1 <b>"}), "etc/`|<img>\x1b[31m": b"1"})
    now = layer_of({DPKG: dpkg(**{"a|b`c": "2 <b>"}), "etc/`|<img>\x1b[31m": b"2"})
    os = shop.push("base/evil", "latest", was)
    shop.push("shop/app", "evil", was, RT, base=("base/evil:latest", os))
    shop.push("base/evil", "latest", now)
    markdown, text = shop.explained("md", "evil"), shop.explained("text", "evil")

    assert "- `/etc/'\N{BROKEN BAR}<img>\\x1b[31m`" in markdown.out
    assert "| `a\N{BROKEN BAR}b'c` |" in markdown.out
    assert "\x1b" not in markdown.out + text.out
