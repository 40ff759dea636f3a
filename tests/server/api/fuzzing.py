"""Valid and malformed requests in every mixture, and the properties that every response must have.

Requests are built around one published and sealed image: its names, digests and bytes are among the material,
complete, damaged and in wrong places, so that many requests are nearly valid.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hypothesis import strategies as st

from tests.asgi import Answer
from tests.images import OCI_INDEX, OCI_MANIFEST, Blob, digest_of, image, index

DOCUMENT = image("under fire")
INDEX = index(DOCUMENT)
BLOB = Blob(b"bytes of a layer" * 20)
SEALED = "1.4.2"
REPOSITORY = "shop/app"

METHODS = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "BREW", ""]
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
REFUSALS = {400, 403, 404, 405, 409, 412, 413, 414, 416}
SUCCESSES = {200, 201, 202, 204, 206, 304}

UNKNOWN_DIGEST = "sha256:" + "0" * 64
DIGESTS = [
    DOCUMENT.digest,
    INDEX.digest,
    DOCUMENT.config.digest,
    BLOB.digest,
    digest_of(BLOB.data, "sha512"),
    UNKNOWN_DIGEST,
    "sha256:abc",
    "sha256:" + "A" * 64,
    "sha512:" + "0" * 64,
    "md5:" + "0" * 32,
    "sha256:",
    ":",
    "sha256:../../../../etc/passwd",
]
NAMES = [
    REPOSITORY,
    "shop",
    "a/manifests/b",
    "x/tags/list",
    "a/blobs/uploads",
    "nowhere",
    "Shop/App",
    "a" * 256,
    "..",
    "shop/../app",
    "shop//app",
    "",
    "_catalog",
    "shop%2fapp",
    "shop\x00",
]
TAGS = [
    SEALED,
    "latest",
    "2.0.0",
    "sha256-" + DOCUMENT.digest[7:],
    "sha256-" + DOCUMENT.digest[7:] + ".sig",
    ".bad",
    "",
    "x" * 129,
    "list",
    "uploads",
]
NUMBERS = ["0", "1", "7", "-1", "", "abc", "1.5", "9" * 30, "9" * 5000, "\u0663", "%00"]
RANGES = [
    "bytes=0-9",
    "bytes=5-",
    "bytes=-5",
    "bytes=9-1",
    "bytes=",
    "bytes=0-1,3-4",
    "0-9",
    "0-319",
    "320-",
    "5-9",
    "9-5",
    "bytes 0-9/10",
    "x",
    "",
]
ETAGS = [
    "*",
    f'"{DOCUMENT.digest}"',
    DOCUMENT.digest,
    f'W/"{DOCUMENT.digest}"',
    '"',
    "",
    '"a", "b"',
    "*, *",
    f'"{UNKNOWN_DIGEST}"',
]
TYPES = [
    OCI_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST.upper(),
    OCI_MANIFEST + "; charset=utf-8",
    "application/json",
    "text/html",
    "x",
    "",
    "a/b/c",
    "application/vnd.docker.distribution.manifest.v1+json",
]
QUERY_NAMES = ["n", "last", "digest", "tag", "mount", "from", "artifactType", "digest-algorithm", "ns", "", "_state"]
HEADER_NAMES = [
    "content-type",
    "content-length",
    "content-range",
    "range",
    "if-match",
    "if-none-match",
    "if-range",
    "accept",
    "expect",
    "transfer-encoding",
    "host",
    "x-forwarded-host",
    "authorization",
]


def _deep(opening: str, closing: str, depth: int) -> bytes:
    return (opening * depth + closing * depth).encode()


BODIES = [
    b"",
    DOCUMENT.raw,
    INDEX.raw,
    DOCUMENT.raw[:-1],
    DOCUMENT.raw + b" ",
    DOCUMENT.raw.replace(b"sha256:", b"sha256;"),
    DOCUMENT.raw.replace(b'"size":', b'"size":-'),
    BLOB.data,
    b"{}",
    b"null",
    b"[]",
    b"\xff\xfe",
    b'{"schemaVersion": 1}',
    b'{"schemaVersion": 2, "manifests": [], "layers": []}',
    b'{"schemaVersion": 2, "mediaType": "' + OCI_MANIFEST.encode() + b'", "config": {}, "layers": [{}]}',
    _deep("[", "]", 5000),
    _deep('{"a":', "}", 5000),
    b'{"schemaVersion": 2, "annotations": {' + b",".join(b'"%d": "x"' % n for n in range(500)) + b"}}",
    b'{"schemaVersion": 1e400}',
]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the application receives it."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    dies: bool = False


def _mangled(text: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Return text as bytes, sometimes with invalid characters inserted."""
    noise = st.sampled_from(
        [b"", b"", b"", b"", b"%", b"%00", b"%2F", b"%3A", b"/", b"..", b"\x00", b"\xff", b" ", b"\r\n", b"?"]
    )
    return st.builds(
        lambda whole, put, at: whole[: at % (len(whole) + 1)] + put + whole[at % (len(whole) + 1) :],
        text.map(lambda each: each.encode("utf-8")),
        noise,
        st.integers(0, 300),
    )


def _paths(sessions: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    name = st.one_of(st.sampled_from(NAMES), st.sampled_from([REPOSITORY]))
    digest, tag = st.sampled_from(DIGESTS), st.sampled_from(TAGS)
    session = st.sampled_from([*sessions, "0" * 32, "x", UNKNOWN_DIGEST])
    routes = st.one_of(
        st.just(""),
        st.just("_catalog"),
        st.builds("{}/tags/list".format, name),
        st.builds("{}/manifests/{}".format, name, st.one_of(digest, tag)),
        st.builds("{}/blobs/{}".format, name, digest),
        st.builds("{}/referrers/{}".format, name, digest),
        st.builds("{}/blobs/uploads{}".format, name, st.sampled_from(["", "/"])),
        st.builds("{}/blobs/uploads/{}".format, name, session),
        st.text(max_size=30),
    )
    return _mangled(routes).map(b"/v2/".__add__)


def _queries() -> st.SearchStrategy[bytes]:
    value = st.one_of(*map(st.sampled_from, (NUMBERS, DIGESTS, NAMES, TAGS, TYPES)), st.text(max_size=20))
    pairs = st.tuples(st.sampled_from(QUERY_NAMES), value).map("=".join)
    return _mangled(st.lists(pairs, max_size=4).map("&".join))


def _headers() -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    value = st.one_of(
        *map(st.sampled_from, (NUMBERS, RANGES, ETAGS, TYPES)),
        st.sampled_from(["chunked", "100-continue", "evil.example", "Basic x"]),
        st.text(max_size=20),
    )
    pair = st.tuples(st.sampled_from(HEADER_NAMES).map(str.encode), value.map(lambda each: each.encode("utf-8")))
    return st.lists(pair, max_size=5)


def _right(sessions: tuple[str, ...]) -> list[Request]:
    """Return valid requests, at least one for each route and method."""
    base = f"/v2/{REPOSITORY}"
    typed = [(b"content-type", OCI_MANIFEST.encode())]
    other = image("another")
    reads = [
        "/v2/",
        "/v2/_catalog?n=1",
        f"{base}/tags/list?n=1&last=0",
        f"{base}/manifests/{SEALED}",
        f"{base}/manifests/{DOCUMENT.digest}",
        f"{base}/blobs/{BLOB.digest}",
        f"{base}/referrers/{DOCUMENT.digest}?artifactType=application/x",
        f"{base}/blobs/uploads/{sessions[1]}",
    ]
    return [
        *[Request(method, path.encode()) for path in reads for method in ("GET", "HEAD")],
        *[
            Request("PUT", f"{base}/manifests/{where}".encode(), typed, [document.raw])
            for document in (DOCUMENT, other)
            for where in (SEALED, "latest", document.digest, f"{document.digest}?tag=latest&tag=edge")
        ],
        Request("PUT", f"{base}/manifests/main".encode(), [(b"content-type", OCI_INDEX.encode())], [INDEX.raw]),
        *[Request("DELETE", f"{base}/manifests/{which}".encode()) for which in ("latest", SEALED, INDEX.digest)],
        Request("DELETE", f"{base}/blobs/{BLOB.digest}".encode()),
        Request("POST", f"{base}/blobs/uploads/".encode()),
        Request("POST", f"{base}/blobs/uploads/?digest={BLOB.digest}".encode(), [], [BLOB.data]),
        Request("POST", f"{base}/blobs/uploads/?digest-algorithm=sha512".encode()),
        Request("POST", f"/v2/nowhere/blobs/uploads/?mount={BLOB.digest}&from={REPOSITORY}".encode()),
        *[
            Request(
                method,
                f"{base}/blobs/uploads/{session}{query}".encode(),
                [(b"content-range", b"0-9")],
                [BLOB.data[:10]],
            )
            for session in sessions
            for method, query in (("PATCH", ""), ("PUT", f"?digest={digest_of(BLOB.data[:10])}"), ("DELETE", ""))
        ],
    ]


def _nearly_right(sessions: tuple[str, ...]) -> st.SearchStrategy[Request]:
    """Return a valid request, possibly with one part changed."""
    one = st.sampled_from(_right(sessions))
    bodies = st.lists(st.one_of(st.sampled_from(BODIES), st.binary(max_size=50)), max_size=3)
    changes = st.lists(
        st.one_of(
            st.sampled_from(METHODS).map(lambda method: {"method": method}),
            _paths(sessions).map(lambda path: {"target": path}),
            bodies.map(lambda pieces: {"pieces": pieces}),
            st.just({"dies": True}),
        ),
        max_size=1,
    )
    more_headers = st.one_of(st.builds(list[tuple[bytes, bytes]]), _headers())
    more_query = st.one_of(st.just(b""), _queries())
    return st.builds(_changed, one, changes, more_headers, more_query)


def _changed(
    request: Request, changes: list[dict[str, Any]], headers: list[tuple[bytes, bytes]], query: bytes
) -> Request:
    for change in changes:
        request = replace(request, **change)
    joint = b"&" if b"?" in request.target else b"?"
    target = request.target + joint + query if query else request.target
    return replace(request, target=target, headers=[*request.headers, *headers])


def _mixed(sessions: tuple[str, ...]) -> st.SearchStrategy[Request]:
    """Return a request of arbitrarily combined parts."""
    return st.builds(
        Request,
        method=st.sampled_from(METHODS),
        target=st.builds(lambda path, query: path + b"?" + query, _paths(sessions), _queries()),
        headers=_headers(),
        pieces=st.lists(st.one_of(st.sampled_from(BODIES), st.binary(max_size=50)), max_size=3),
        dies=st.sampled_from([False] * 9 + [True]),
    )


@cache
def requests(sessions: tuple[str, ...]) -> st.SearchStrategy[Request]:
    """Return any request. `sessions`: ids of current and former upload sessions."""
    nearly_right = _nearly_right(sessions)
    return st.one_of(nearly_right, nearly_right, nearly_right, _mixed(sessions))


def broken_rules(request: Request, answer: Answer) -> list[str]:
    """Return the properties of every response that this one violates."""
    if answer.status == 0:
        return [] if request.dies else ["no answer although the client is there"]
    broken = _broken_headers(answer)
    if answer.status not in SUCCESSES | REFUSALS:
        broken.append("a status that no request may cause")
    if answer.status in {204, 304} or request.method == "HEAD":
        if answer.body:
            broken.append("a body where there is none")
    elif answer.headers.get("content-length") != str(len(answer.body)):
        broken.append("a Content-Length that is not the body's")
    elif answer.status >= 400:
        broken += _broken_error(answer)
    return broken


def _broken_headers(answer: Answer) -> list[str]:
    broken = []
    if any(not (name + value).isascii() or not (name + value).isprintable() for name, value in answer.headers.items()):
        broken.append("a header that could break out of its line")
    if any("evil" in value for value in answer.headers.values()):
        broken.append("a header made of the host that the client sent")
    if answer.status == 405 and not answer.headers.get("allow"):
        broken.append("405 without Allow")
    if answer.status >= 400 and answer.headers.get("cache-control") != "no-store":
        broken.append("an error that may be kept")
    return broken


def _broken_error(answer: Answer) -> list[str]:
    document = json.loads(answer.body)
    entries = document.get("errors", [])
    if list(document) != ["errors"] or len(entries) != 1 or set(entries[0]) != {"code", "message", "detail"}:
        return ["not the spec's form of an error"]
    broken = []
    message = entries[0]["message"]
    if entries[0]["code"] not in CODES:
        broken.append("a code that is not the spec's")
    if not message.isprintable() or not 10 < len(message) < 1000:
        broken.append("not one sentence")
    if any(word in message for word in ("Traceback", "/src/", ".py", "sqlite", "object at 0x")):
        broken.append("the inside of the server in a message")
    return broken
