"""Attacks in the request path: escapes, dots, doubled slashes, NUL, control characters, endless names.

Each is answered 400 or 404 with an error of the spec's form, changes nothing, and touches no file outside the store.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.asgi import Answer, send
from tests.images import OCI_MANIFEST, image, meaning, push, start_upload
from tests.serving import Serving

DOCUMENT = image("honest")
TRICKS = [
    "..",
    ".",
    "../../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "%2e%2e%2f%2e%2e",
    "%252e%252e",
    "..\\..\\etc",
    "%5c..%5c",
    "%00",
    "a%00",
    "\x00",
    "a\x00b",
    "%0d%0aX-Evil:%201",
    "%0a",
    "\r\nX-Evil: 1",
    "%7f",
    "%ff",
    "\xff\xfe",
    "%c0%ae%c0%ae",
    "%e2%80%ae",
    "%u002e",
    "%",
    "%2",
    "%zz",
    "a%20b",
    "a b",
    "a+b",
    "a;b",
    "a\tb",
    "~",
    "'",
    '"',
    "<script>",
    "${jndi:ldap://x}",
    "$(id)",
    "`id`",
    "a" * 5000,
    "a/" * 3000 + "a",
    "%41" * 2000,
]


def check_refused(answer: Answer) -> None:
    """Require 400 or 404 in the spec's form, and no part of the attack in a header."""
    if answer.status not in {400, 404, 414}:
        raise AssertionError(f"{answer.status} {answer.body[:200]!r}")
    json.loads(answer.body)["errors"][0]["code"]
    if any("evil" in name or "\n" in value or "\r" in value for name, value in answer.headers.items()):
        raise AssertionError(str(answer.headers))


def files(folder: Path) -> set[str]:
    """Return every file around the store by its path."""
    # A lease is created by the server's own hourly task, which begins beside the first request.
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lease")
    return {str(path.relative_to(folder)) for path in found}


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: ascii(trick)[:30])
async def test_an_attack_in_a_repository_name_is_refused(registry: Serving, trick: str) -> None:
    """No escape is decoded in a repository name: pulls, pushes and uploads of such a name are refused alike."""
    before = files(registry.data.parent)
    for method, target in [
        ("GET", f"/v2/{trick}/manifests/1.0.0"),
        ("GET", f"/v2/shop/{trick}/tags/list"),
        ("GET", f"/v2/shop/{trick}/blobs/{DOCUMENT.digest}"),
        ("POST", f"/v2/{trick}/blobs/uploads/"),
        ("POST", f"/v2/shop/{trick}/app/blobs/uploads/?digest={DOCUMENT.digest}"),
        ("GET", f"/v2/{trick}/referrers/{DOCUMENT.digest}"),
    ]:
        check_refused(await send(registry.app, method, target))
    put = await send(
        registry.app,
        "PUT",
        f"/v2/shop/{trick}/manifests/latest",
        headers=[("Content-Type", OCI_MANIFEST)],
        body=DOCUMENT.raw,
    )
    check_refused(put)

    assert files(registry.data.parent) == before
    assert (await registry.client.get("/v2/_catalog")).json() == {"repositories": []}


@pytest.mark.parametrize("trick", [each for each in TRICKS if "/" not in each], ids=lambda trick: ascii(trick)[:30])
async def test_an_attack_in_a_reference_is_refused(registry: Serving, trick: str) -> None:
    """An attack in the place of a tag or digest is refused."""
    for method, target in [
        ("GET", f"/v2/shop/app/manifests/{trick}"),
        ("HEAD", f"/v2/shop/app/manifests/{trick}"),
        ("DELETE", f"/v2/shop/app/manifests/{trick}"),
        ("GET", f"/v2/shop/app/blobs/{trick}"),
        ("GET", f"/v2/shop/app/blobs/sha256:{trick}"),
        ("DELETE", f"/v2/shop/app/blobs/{trick}"),
        ("GET", f"/v2/shop/app/referrers/{trick}"),
    ]:
        answer = await send(registry.app, method, target)
        if method == "HEAD":
            assert answer.status in {400, 404, 414}
        else:
            check_refused(answer)
    put = await send(
        registry.app,
        "PUT",
        f"/v2/shop/app/manifests/{trick}",
        headers=[("Content-Type", OCI_MANIFEST)],
        body=DOCUMENT.raw,
    )

    check_refused(put)


@pytest.mark.parametrize("trick", [each for each in TRICKS if "?" not in each], ids=lambda trick: ascii(trick)[:30])
async def test_an_attack_in_an_upload_id_is_refused(registry: Serving, trick: str) -> None:
    """An upload id is never used as a path: no file outside the upload folder is read, written or removed."""
    before = files(registry.data.parent)
    for method in ("GET", "PATCH", "DELETE"):
        answer = await send(registry.app, method, f"/v2/shop/app/blobs/uploads/{trick}", body=b"evil")
        check_refused(answer)
    answer = await send(
        registry.app, "PUT", f"/v2/shop/app/blobs/uploads/{trick}?digest={DOCUMENT.digest}", body=b"evil"
    )
    check_refused(answer)

    assert files(registry.data.parent) == before


@pytest.mark.parametrize(
    "path",
    [
        "/v2/shop/app/manifests/1.0.0/",
        "/v2/shop/app//manifests/1.0.0",
        "/v2//shop/app/manifests/1.0.0",
        "//v2/shop/app/manifests/1.0.0",
        "/v2/shop/app/manifests//1.0.0",
        "/v2/shop/app/./manifests/1.0.0",
        "/v2/x/../shop/app/manifests/1.0.0",
        "/v2/shop/app/manifests/%31.0.0",
        "/v2/shop%2fapp/manifests/1.0.0",
        "/v2/shop/app%2fmanifests%2f1.0.0",
        "/v2/shop/%61pp/manifests/1.0.0",
        "/v2/shop/app/manifests/1%2e0%2e0",
        "/%76%32/shop/app/manifests/1.0.0",
        "/v2/shop/app/Manifests/1.0.0",
        "/v2/shop/app/manifests/1.0.0%20",
        "/v2/shop/app/manifests/1.0.0;x=1",
        "/v2/shop/app/manifests/1.0.0%00",
        "/V2/shop/app/manifests/1.0.0",
    ],
)
async def test_another_spelling_of_an_address_is_another_address(registry: Serving, path: str) -> None:
    """A sealed tag has one spelling: no other spelling pulls, overwrites or deletes it."""
    await push(registry.client, "shop/app", "1.0.0", DOCUMENT)
    other = image("other")
    await push(registry.client, "shop/app", other.digest, other)

    answers = [
        await send(registry.app, "GET", path),
        await send(registry.app, "PUT", path, headers=[("Content-Type", OCI_MANIFEST)], body=other.raw),
        await send(registry.app, "DELETE", path),
    ]

    assert all(answer.status in {400, 404, 405} for answer in answers), [answer.status for answer in answers]
    assert await meaning(registry.client, "shop/app", "1.0.0") == DOCUMENT.digest
    assert (await registry.client.get("/v2/shop/app/tags/list")).json()["tags"] == ["1.0.0"]


@pytest.mark.parametrize("digest", ["sha256%3A", "sha256%3a"])
async def test_only_the_colon_of_a_digest_may_be_escaped(registry: Serving, digest: str) -> None:
    """`%3A` in a digest is decoded to its colon; a double escape, or any other escape beside it, is not found."""
    await push(registry.client, "shop/app", "1.0.0", DOCUMENT)
    hexadecimal = DOCUMENT.digest.removeprefix("sha256:")

    good = await send(registry.app, "GET", f"/v2/shop/app/manifests/{digest}{hexadecimal}")
    twice = await send(registry.app, "GET", f"/v2/shop/app/manifests/sha256%253A{hexadecimal}")
    beside = await send(
        registry.app, "GET", f"/v2/shop/app/manifests/{digest}%{ord(hexadecimal[0]):x}{hexadecimal[1:]}"
    )

    assert good.status == 200
    assert twice.status in {400, 404}
    assert beside.status in {400, 404}


@pytest.mark.parametrize("name", ["digest", "mount", "from", "digest-algorithm"])
@pytest.mark.parametrize(
    "value",
    ["%00", "%0d%0aX-Evil:1", "%ff%fe", "../../x", "a" * 20000, "%F0%9F%92%A9", "%", "[]", "{}"],
    ids=lambda v: v[:12],
)
async def test_an_attack_in_a_parameter_of_an_upload_is_harmless(registry: Serving, name: str, value: str) -> None:
    """Whatever an upload's parameter has, the answer is an error of the spec or a working session."""
    query = f"mount={DOCUMENT.digest}&from={value}" if name == "from" else f"{name}={value}"

    answer = await send(registry.app, "POST", f"/v2/shop/app/blobs/uploads/?{query}")

    if answer.status == 202:
        assert name == "from"
    else:
        check_refused(answer)


@pytest.mark.parametrize("parameter", ["n", "last", "artifactType", "ns", "tag"])
@pytest.mark.parametrize(
    "value", ["%00", "%0d%0aX-Evil:1", "%ff%fe", "a" * 20000, "%", "'%20OR%201=1--"], ids=lambda v: v[:12]
)
async def test_an_attack_in_a_parameter_of_a_listing_is_harmless(registry: Serving, parameter: str, value: str) -> None:
    """Parameters of listings are copied neither into a header nor into a database query."""
    await push(registry.client, "shop/app", "1.0.0", DOCUMENT)
    for path in ("/v2/shop/app/tags/list", "/v2/_catalog", f"/v2/shop/app/referrers/{DOCUMENT.digest}"):
        answer = await send(registry.app, "GET", f"{path}?{parameter}={value}&n=1")

        assert answer.status in ({400, 404, 414} if parameter == "ns" else {200, 400, 414})
        assert all("\n" not in text and "\r" not in text and "\x00" not in text for text in answer.headers.values())
        assert "x-evil" not in answer.headers


async def test_an_upload_belongs_to_its_repository(registry: Serving) -> None:
    """An upload id of one repository is unknown in every other, and keeps working in its own."""
    client = registry.client
    location = await start_upload(client, "shop/app")
    await client.patch(location, content=b"mine")
    foreign = location.replace("/shop/app/", "/shop/other/")

    answers = [
        await client.get(foreign),
        await client.patch(foreign, content=b"evil"),
        await client.put(f"{foreign}?digest={DOCUMENT.digest}", content=b"evil"),
        await client.delete(foreign),
    ]
    state = await client.get(location)

    assert [answer.status_code for answer in answers] == [404] * 4
    assert state.headers["Range"] == "0-3"


async def test_the_name_of_an_upload_in_another_case_is_not_it(registry: Serving) -> None:
    """An upload id is compared exactly: no case folding, no added characters, no prefix."""
    location = await start_upload(registry.client, "shop/app")
    upload = location.rpartition("/")[2].partition("?")[0]

    for other in (upload.upper(), upload + "0", upload[:-1], f"{{{upload}}}", f"urn:uuid:{upload}", upload + ".tmp"):
        if other != upload:
            answer = await registry.client.delete(f"/v2/shop/app/blobs/uploads/{other}")

            assert answer.status_code in {400, 404}, other
    assert (await registry.client.get(location)).status_code == 204
