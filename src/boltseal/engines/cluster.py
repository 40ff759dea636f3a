"""Read and change the objects of one Kubernetes cluster through `kubectl`. Methods block.

A refusal is a decision of the API server: the object is not valid, a right or a quota is missing, an admission webhook denied it,
another field manager has the field. Every other failure is doubt, since the request may have been carried out.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote as url_quote

import msgspec

from boltseal.engines import kubectl
from boltseal.engines.kubernetes import ClusterMismatch
from boltseal.errors import Precondition, Unauthenticated, quote

_REFUSED: Final = re.compile(
    r"Error from server \((?:Forbidden|Invalid|BadRequest|Conflict|NotFound|AlreadyExists|MethodNotAllowed|NotAcceptable|Gone|"
    r"RequestEntityTooLarge|UnsupportedMediaType)\)|Error from server: |Apply failed with \d+ conflict|is invalid: |"
    r"admission webhook \".*\" denied|no matches for kind|error validating|strict decoding error"
)
_DOUBT: Final = re.compile(
    r"\((?:InternalError|ServiceUnavailable|Timeout|ServerTimeout|TooManyRequests|Expired)\)|failed calling webhook|etcdserver: |"
    r"Unable to connect to the server|The connection to the server|dial tcp|TLS handshake|context deadline exceeded|i/o timeout|"
    r"failed to download openapi|error validating data: the server could not|unexpected EOF|connection re(?:set|fused)|request canceled|Client\.Timeout"
)
_LOGGED_OUT: Final = re.compile(r"\(Unauthorized\)|You must be logged in|getting credentials", re.IGNORECASE)
_NOT_FOUND: Final = "Error from server (NotFound)"
_EXISTS: Final = "Error from server (AlreadyExists)"
_REVIEW: Final = "Please review the fields above"  # kubectl's advice about its own options follows
_CONFLICT: Final = "Apply failed with"
_TAKE_OVER: Final = (
    "; leave that field out of the manifests, or take it over by `boltseal deploy --take-over --kube {}`"
)
_MAX_REASON: Final = 1500
_UID: Final = re.compile(r"[0-9A-Za-z-]{1,128}")
_PATH: Final = re.compile(r"[A-Za-z0-9.-]+(?:/[A-Za-z0-9.-]+)?")

Json = Mapping[str, Any]
T = TypeVar("T")


class ClusterRefused(Precondition):
    """The API server refused a request, and did not carry it out."""


class LoggedOut(Unauthenticated):
    """The credentials of the context are not valid, or not any more."""


class ObjectExists(ClusterRefused):
    """An object of this name exists already."""


class ObjectId(NamedTuple):
    """What identifies an object in a cluster. `namespace`: "" for one of the whole cluster."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @property
    def group(self) -> str:
        """The API group, without the version."""
        return self.api_version.rpartition("/")[0]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What stays the same between two versions of the API."""
        return self.group, self.kind, self.namespace, self.name

    def document(self) -> dict[str, Any]:
        """Return the object without content, by which kubectl finds it."""
        metadata = {"name": self.name} | ({"namespace": self.namespace} if self.namespace else {})
        return {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata}

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}" + (f" in {self.namespace}" if self.namespace else "")


def id_of(document: Json) -> ObjectId:
    """Return the identity of an object that the API server returned. Raises: ClusterMismatch."""
    metadata = document.get("metadata")
    inside = metadata if isinstance(metadata, dict) else {}
    values = (document.get("apiVersion"), document.get("kind"), inside.get("namespace"), inside.get("name"))
    version, kind, namespace, name = (each or "" for each in values)
    if not (
        isinstance(version, str)
        and isinstance(kind, str)
        and isinstance(name, str)
        and isinstance(namespace, str)
        and name
    ):
        raise ClusterMismatch("the cluster returned an object without a valid apiVersion, kind, namespace or name")
    return ObjectId(version, kind, namespace, name)


def uid_of(document: Json) -> str:
    """Return the UID of an object that the API server returned. Raises: ClusterMismatch: it has none, or it can't be a UID."""
    metadata = document.get("metadata")
    uid = metadata.get("uid") if isinstance(metadata, dict) else None
    if uid is None:
        raise ClusterMismatch("the cluster returned an object without a UID")
    if not isinstance(uid, str) or _UID.fullmatch(uid) is None:
        raise ClusterMismatch(
            f"the cluster returned an object with an invalid UID (got {quote(str(uid))}, expected letters, digits and -)"
        )
    return uid


class _Metadata(msgspec.Struct):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    managedFields: list[dict[str, Any]] | None = None  # noqa: N815 - the key of the document


class _ContainerState(msgspec.Struct):
    waiting: dict[str, Any] | None = None
    running: dict[str, Any] | None = None
    terminated: dict[str, Any] | None = None


class _ContainerStatus(msgspec.Struct):
    state: _ContainerState | None = None
    lastState: _ContainerState | None = None  # noqa: N815


class _PodStatus(msgspec.Struct):
    containerStatuses: list[_ContainerStatus] | None = None  # noqa: N815
    initContainerStatuses: list[_ContainerStatus] | None = None  # noqa: N815
    conditions: list[dict[str, Any]] | None = None


class _Pod(msgspec.Struct):
    metadata: _Metadata | None = None
    status: _PodStatus | None = None


class _Pods(msgspec.Struct):
    items: list[_Pod] | None = None


class _Served(msgspec.Struct):
    name: str = ""
    kind: str = ""
    namespaced: bool = False


class _Resources(msgspec.Struct):
    resources: list[_Served] | None = None


class _Answer(msgspec.Struct):
    """What boltseal relies on in every object and list, and does not look at again. Custom kinds may have any spec and status."""

    kind: str = ""
    metadata: _Metadata | None = None
    items: list[_Answer] | None = None
    data: Any = None


class ServedKind(NamedTuple):
    """A kind that the API server serves. `plural`: its name in paths."""

    plural: str
    namespaced: bool


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster by a context of kubectl. `kinds`: what its API serves, by version, as far as it was asked."""

    context: str
    kinds: dict[str, dict[str, ServedKind]] = field(default_factory=dict)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def namespace(self) -> str:
        """Return the namespace of the context. Raises: KubectlFailed: there is no such context."""
        found = self._output("config", "view", "--minify", "--output=jsonpath={..namespace}")
        return found.decode("utf-8", "replace").strip() or "default"

    def server(self) -> str:
        """Return the address of the API server of the context. Raises: KubectlFailed: there is no such context."""
        return (
            self._output("config", "view", "--minify", "--output=jsonpath={..server}")
            .decode("utf-8", "replace")
            .strip()
        )

    def served(self, api_version: str) -> Mapping[str, ServedKind]:
        """Return the kinds of a version of the API, by name; empty if the cluster does not serve it."""
        with self.guard:
            if api_version in self.kinds:
                return self.kinds[api_version]
        if _PATH.fullmatch(api_version) is None:
            return {}
        path = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        document = self.read(path)
        listed = () if document is None else _checked(document, _Resources).resources or ()
        found = {
            each.kind: ServedKind(each.name, each.namespaced)
            for each in listed
            if each.name and "/" not in each.name and each.kind
        }
        if found:
            with self.guard:
                self.kinds[api_version] = found
        return found

    def read(self, path: str) -> Json | None:
        """Return the answer to GET of a path of the API; None for 404."""
        done = self._run(["get", "--raw", path])
        if done.code and _NOT_FOUND in _text(done.errors):
            return None
        return _object(self._succeeded(done, f"GET {path}"))

    def path(self, object_id: ObjectId) -> str:
        """Return the path of an object. Raises: ClusterRefused: the cluster does not serve its kind."""
        kind = self.served(object_id.api_version).get(object_id.kind)
        if kind is None:
            raise ClusterRefused(
                f"{self.context}: no matches for kind {quote(object_id.kind)} in version {quote(object_id.api_version)}"
            )
        base = f"/apis/{object_id.api_version}" if "/" in object_id.api_version else f"/api/{object_id.api_version}"
        inside = f"/namespaces/{url_quote(object_id.namespace, '')}" if kind.namespaced else ""
        return f"{base}{inside}/{kind.plural}/{url_quote(object_id.name, '')}"

    def get(self, wanted: Iterable[ObjectId]) -> dict[tuple[str, str, str, str], Json]:
        """Return these objects as they are, by key; those that do not exist are left out.

        Raises: KubectlFailed, ClusterRefused, LoggedOut.
        """
        known = [each for each in wanted if each.kind in self.served(each.api_version)]
        if not known:
            return {}
        sent = _stream([each.document() for each in known])
        done = self._run(["get", "--ignore-not-found", "--output=json", "--show-managed-fields", "--filename=-"], sent)
        return {id_of(each).key: each for each in _objects(self._succeeded(done, "get"))}

    def apply(
        self, documents: Sequence[Json], manager: str, *, force: bool = False, dry_run: bool = False
    ) -> list[Json]:
        """Apply objects by server-side apply, and return them as the server has or would have them.

        `force`: take fields over that other managers have. Raises: ClusterRefused: one object was refused, the others may be
        applied; KubectlFailed, LoggedOut: unknown which objects were applied.
        """
        if not documents:
            return []
        words = [
            "apply",
            "--server-side",
            f"--field-manager={manager}",
            "--output=json",
            "--show-managed-fields",
            "--filename=-",
        ]
        words += ["--force-conflicts"] if force else []
        words += ["--dry-run=server"] if dry_run else []
        return _objects(self._succeeded(self._run(words, _stream(documents)), "apply"))

    def create(self, path: str, document: Json) -> Json:
        """Create an object by POST. Raises: ObjectExists, ClusterRefused, KubectlFailed, LoggedOut."""
        return self._write("create", path, document)

    def replace(self, path: str, document: Json) -> Json:
        """Replace an object by PUT. Raises: ClusterRefused, KubectlFailed, LoggedOut."""
        return self._write("replace", path, document)

    def delete(self, object_id: ObjectId, uid: str) -> bool:
        """Delete an object if it still has this UID; what belongs to it is deleted afterwards by the cluster.

        Return False if it is gone. Raises: ClusterRefused: it is another one now; KubectlFailed, LoggedOut.
        """
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        done = self._run(["delete", "--raw", self.path(object_id), "--filename=-"], json.dumps(options).encode())
        if done.code and _NOT_FOUND in _text(done.errors):
            return False
        self._succeeded(done, f"delete {object_id}")
        return True

    def logs(self, namespace: str, pod: str, container: str, lines: int) -> tuple[str, ...]:
        """Return the last log lines of a container. Raises: ClusterRefused, KubectlFailed, LoggedOut."""
        words = ["logs", f"--namespace={namespace}", f"--container={container}", f"--tail={lines}", "--", pod]
        return tuple(_text(self._succeeded(self._run(words), "logs")).splitlines()[-lines:])

    def pods(self, namespace: str, labels: Mapping[str, str]) -> list[Json]:
        """Return the pods with these labels. Raises: ClusterRefused, KubectlFailed, LoggedOut."""
        selector = url_quote(",".join(f"{key}={value}" for key, value in sorted(labels.items())), "")
        found = self.read(f"/api/v1/namespaces/{url_quote(namespace, '')}/pods?labelSelector={selector}")
        if found is None:
            return []
        _checked(found, _Pods)
        return list(found.get("items") or [])

    def _write(self, verb: str, path: str, document: Json) -> Json:
        done = self._run([verb, "--raw", path, "--filename=-"], json.dumps(document).encode())
        if done.code and _EXISTS in _text(done.errors):
            raise ObjectExists(f"{self.context}: {_reason(done.errors)}")
        return _object(self._succeeded(done, f"{verb} {path}"))

    def _output(self, *words: str) -> bytes:
        return self._succeeded(self._run(words), words[0])

    def _run(self, words: Sequence[str], sent: bytes | None = None) -> kubectl.Finished:
        return asyncio.run(kubectl.run(self.context, words, sent))

    def _succeeded(self, done: kubectl.Finished, what: str) -> bytes:
        """Return the output. Raises: ClusterRefused, KubectlFailed, LoggedOut."""
        if done.code == 0:
            return done.output
        errors, reason = (
            _text(done.errors),
            f"{self.context}: {_reason(done.errors) or f'kubectl {what} failed without a reason'}",
        )
        if _LOGGED_OUT.search(errors):
            raise LoggedOut(f"{reason}; log in to the cluster again, as for kubectl")
        if _REFUSED.search(errors) and not _DOUBT.search(errors):
            raise ClusterRefused(reason + (_TAKE_OVER.format(self.context) if _CONFLICT in errors else ""))
        raise kubectl.KubectlFailed(reason)


def _stream(documents: Sequence[Json]) -> bytes:
    """Return objects one after the other. In a `List` kubectl would not have the API server check their fields."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in documents)


def _object(raw: bytes) -> Json:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ClusterMismatch("the cluster's answer is not valid JSON") from error
    if not isinstance(found, dict):
        raise ClusterMismatch("the cluster's answer is not an object")
    answer = _checked(found, _Answer)
    for each in (answer, *(answer.items or ())):
        if each.kind == "Secret" and not isinstance(each.data, dict | None):
            raise ClusterMismatch("the cluster returned a Secret with invalid data")
    return found


def _checked(document: Json, shape: type[T]) -> T:
    """Return what boltseal needs of an answer. Raises: ClusterMismatch: a part of it has another type."""
    try:
        return msgspec.convert(document, shape)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ClusterMismatch(f"the cluster's answer is malformed: {quote(str(error), 300)[1:-1]}") from error


def _objects(raw: bytes) -> list[Json]:
    """Return the objects that kubectl printed: none, one, or a list."""
    if not raw.strip():
        return []
    found = _object(raw)
    return list(found.get("items") or []) if found.get("kind") == "List" else [found]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _reason(errors: bytes) -> str:
    """Return what kubectl says in one line, without its advice about its own options."""
    lines = [line.strip() for line in _text(errors).split(_REVIEW)[0].splitlines()]
    kept = dict.fromkeys(line.removeprefix("error: ") for line in lines if line and not line.startswith("Warning:"))
    return quote("; ".join(kept), _MAX_REASON)[1:-1] if kept else ""
