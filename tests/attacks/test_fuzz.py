"""Random requests to random addresses: never a 500, always an answer of the spec's form, and the sealed tag is
unchanged."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.asgi import send
from tests.images import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, image, index, push
from tests.serving import Serving

pytestmark = pytest.mark.usefixtures("whole_store")

SEALED = image("sealed")
UPLOAD = f"{'0' * 8}-0000-4000-8000-{'0' * 12}"

PIECES = st.sampled_from(
    [
        "v2", "shop", "app", "manifests", "blobs", "uploads", "tags", "list", "referrers", "_catalog", "_oci", "ext",
        "1.4.2", "latest", SEALED.digest, SEALED.config.digest, "sha256:", "sha512:" + "0" * 128, "sha256:" + "0" * 64,
        UPLOAD, "", ".", "..", "%2e", "%00", "%3A", "sha256%3A" + "0" * 64, "A", "-", "_", "a" * 300, "\xe9", "?", "#", "*",
    ]
)  # fmt: skip
PATHS = st.one_of(
    st.lists(PIECES, max_size=8).map(lambda pieces: "/" + "/".join(pieces)),
    st.tuples(
        st.sampled_from(["shop/app", "shop", "Shop", "a/manifests/b", "..", ""]),
        st.sampled_from(["manifests", "blobs", "blobs/uploads", "tags", "referrers"]),
        PIECES,
    ).map(lambda parts: "/v2/" + "/".join(parts)),
    st.text(st.characters(max_codepoint=255), max_size=40).map(lambda text: "/v2/" + text),
)
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["digest", "mount", "from", "tag", "n", "last", "artifactType", "digest-algorithm", "ns", "x"]),
        st.one_of(PIECES, st.text(st.characters(max_codepoint=255), max_size=12)),
    ),
    max_size=3,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["Content-Type", "Content-Range", "Content-Length", "Range", "If-Match", "If-None-Match", "If-Range", "Host",
             "Accept", "Authorization", "Transfer-Encoding"]
        ),
        st.one_of(
            st.sampled_from(
                [OCI_MANIFEST, OCI_INDEX, DOCKER_LIST, "0-0", "0-99", "bytes=0-", "bytes=-1", "*", f'"{SEALED.digest}"',
                 "chunked", "0", "5", "Basic eDp4", "Bearer x"]
            ),
            st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20),
        ),
    ),
    max_size=4,
)  # fmt: skip
BODIES = st.one_of(
    st.just(b""),
    st.binary(max_size=60),
    st.sampled_from([SEALED.raw, index(SEALED).raw, SEALED.raw[:-1], b"{}", b"[]", b"null"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "digest", "size"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", ""])


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(method=METHODS, path=PATHS, query=QUERIES, headers=HEADERS, body=BODIES, dies=st.booleans())
@pytest.mark.slow
async def test_anything_at_any_address(
    registry: Serving,
    method: str,
    path: str,
    query: str,
    headers: list[tuple[str, str]],
    body: bytes,
    dies: bool,
) -> None:
    """No request makes the server fail; each refusal has the spec's error form."""
    await push(registry.client, "shop/app", "1.4.2", SEALED)
    encoded = [(name, value.encode("latin-1")) for name, value in headers]

    answer = await send(registry.app, method, f"{path}?{query}", headers=encoded, body=body, dies=dies)
    got = await send(registry.app, "GET", "/v2/shop/app/manifests/1.4.2")

    assert answer.status < 500
    assert got.body == SEALED.raw
    if answer.status >= 400 and method != "HEAD" and path.startswith("/v2/"):
        assert json.loads(answer.body)["errors"][0]["message"]
