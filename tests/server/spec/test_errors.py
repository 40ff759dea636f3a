"""Error responses: their form, their codes, and that each says what was wrong."""

from __future__ import annotations

import httpx2
import pytest

from tests.asgi import send
from tests.images import OCI_MANIFEST, image, push
from tests.serving import Serving

CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}
ABSENT = "sha256:" + "0" * 64
UPLOAD = f"{'0' * 8}-0000-4000-8000-{'0' * 12}"

WRONG = [
    ("GET", "/v2/shop/app/manifests/2.0.0", 404, {"MANIFEST_UNKNOWN"}),
    ("GET", f"/v2/shop/app/manifests/{ABSENT}", 404, {"MANIFEST_UNKNOWN"}),
    ("GET", f"/v2/shop/app/blobs/{ABSENT}", 404, {"BLOB_UNKNOWN"}),
    ("GET", "/v2/shop/app/blobs/sha256:abc", 400, {"DIGEST_INVALID"}),
    ("GET", "/v2/shop/app/blobs/1.0.0", 400, {"DIGEST_INVALID"}),
    ("GET", "/v2/Shop/app/manifests/1.0.0", 400, {"NAME_INVALID"}),
    ("GET", "/v2/nowhere/tags/list", 404, {"NAME_UNKNOWN"}),
    ("GET", f"/v2/shop/app/blobs/uploads/{UPLOAD}", 404, {"BLOB_UPLOAD_UNKNOWN"}),
    ("GET", "/v2/shop/app/referrers/x", 400, {"DIGEST_INVALID"}),
    ("POST", "/v2/shop/app/blobs/uploads/?digest=x", 400, {"DIGEST_INVALID"}),
    ("POST", "/v2/Shop/app/blobs/uploads/", 400, {"NAME_INVALID"}),
    ("PUT", "/v2/shop/app/manifests/1.0.0", 400, {"MANIFEST_INVALID"}),
    ("DELETE", "/v2/shop/app/manifests/1.0.0", 405, {"DENIED"}),
    ("DELETE", f"/v2/shop/app/manifests/{ABSENT}", 404, {"MANIFEST_UNKNOWN"}),
    ("POST", "/v2/shop/app/manifests/1.0.0", 405, {"UNSUPPORTED"}),
    ("PUT", f"/v2/shop/app/blobs/{ABSENT}", 405, {"UNSUPPORTED"}),
    ("PATCH", "/v2/shop/app/tags/list", 405, {"UNSUPPORTED"}),
    ("DELETE", "/v2/", 405, {"UNSUPPORTED"}),
    ("GET", "/v2/shop/app", 404, {"UNSUPPORTED", "NAME_UNKNOWN"}),
    ("GET", "/v2/shop/app/what/is/this", 404, {"UNSUPPORTED", "NAME_UNKNOWN"}),
]


@pytest.mark.parametrize(("method", "path", "status", "codes"), WRONG)
async def test_an_error_has_the_specs_form_and_code(
    client: httpx2.AsyncClient, method: str, path: str, status: int, codes: set[str]
) -> None:
    """An error is JSON: a list of errors, each with one of the spec's fourteen codes and a sentence."""
    await push(client, "shop/app", "1.0.0", image("something"))
    headers = {"Content-Type": OCI_MANIFEST} if method == "PUT" else {}

    answer = await client.request(method, path, headers=headers)
    errors = answer.json()["errors"]

    assert answer.status_code == status
    assert answer.headers["Content-Type"].split(";")[0] == "application/json"
    assert answer.headers["Content-Length"] == str(len(answer.content))
    assert len(errors) == 1
    assert set(errors[0]) <= {"code", "message", "detail"}
    assert errors[0]["code"] in codes & CODES
    assert len(errors[0]["message"]) > 10


@pytest.mark.parametrize(("method", "path"), [(each[0], each[1]) for each in WRONG if each[2] == 405])
async def test_a_405_lists_the_allowed_methods(client: httpx2.AsyncClient, method: str, path: str) -> None:
    """Each 405 has Allow without the refused method."""
    await push(client, "shop/app", "1.0.0", image("something"))

    answer = await client.request(method, path, headers={"Content-Type": OCI_MANIFEST})
    allowed = {each.strip() for each in answer.headers["Allow"].split(",")}

    assert answer.status_code == 405
    assert method not in allowed
    assert "GET" in allowed


@pytest.mark.parametrize(("method", "path", "status"), [(*each[:2], each[2]) for each in WRONG if each[0] == "GET"])
async def test_an_error_on_head_has_no_body(client: httpx2.AsyncClient, method: str, path: str, status: int) -> None:
    """HEAD has the status of GET without a body; where only GET exists, HEAD may be 405."""
    await push(client, "shop/app", "1.0.0", image("something"))

    answer = await client.head(path)

    assert answer.status_code in {status, 405}
    assert answer.content == b""


async def test_a_message_repeats_the_invalid_input(client: httpx2.AsyncClient) -> None:
    """The message repeats the invalid input, so that it can be found in a log."""
    manifest = await client.get("/v2/shop/app/manifests/9.9.9")
    digest = await client.get("/v2/shop/app/blobs/sha256:abc")
    name = await client.get("/v2/Shop/app/tags/list")

    assert "9.9.9" in manifest.text
    assert "abc" in digest.text
    assert "Shop/app" in name.text


async def test_a_message_can_not_break_out_of_its_json(registry: Serving) -> None:
    """Client input in a message is escaped, control characters included, and shortened."""
    answer = await send(registry.app, "GET", b'/v2/shop/app/manifests/%22%7D%5D%7Dx"}]}\x01\x1b[31m' + b"y" * 5000)

    assert answer.status in {400, 404}
    assert answer.headers["content-type"].startswith("application/json")
    assert b"\x1b" not in answer.body
    assert b"\x01" not in answer.body
    assert len(answer.body) < 3000


async def test_the_base_route_has_the_version_header(client: httpx2.AsyncClient) -> None:
    """`/v2/` has the header by which old clients recognise a registry."""
    answer = await client.get("/v2/")

    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
