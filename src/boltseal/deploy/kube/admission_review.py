"""AdmissionReview of Kubernetes (admission.k8s.io/v1): which images an object names, and the response. Pure.

    Pod                                                   spec
    PodTemplate                                           template.spec
    Deployment, StatefulSet, DaemonSet, ReplicaSet,
    ReplicationController, Job                            spec.template.spec
    CronJob                                               spec.jobTemplate.spec.template.spec

In each of these: `containers`, `initContainers`, `ephemeralContainers`, and volumes with an image. An update is asked only about the
images that it changes: an object that was created before must stay usable, and its pods are asked about when they are created. An
update of `pods/ephemeralcontainers` can change nothing else, so it is asked about nothing else.

The review is from the API server, the object in it from any user of the cluster: it may have any shape. A shape that is not understood is
refused (`ReviewInvalid`), and never taken for an object without images.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from boltseal.errors import Invalid, quote
from boltseal.oci.jsontext import decode

API_VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"
MAX_REVIEW_BYTES: Final = 8 * 1024 * 1024
"""An object has at most 3 MiB, and an update has the former object too."""
MAX_IMAGES: Final = 500
MAX_MESSAGE: Final = 4000
_TEMPLATE: Final = ("spec", "template", "spec")
POD_SPECS: Final[Mapping[str, tuple[str, ...]]] = {
    "Pod": ("spec",),
    "PodTemplate": ("template", "spec"),
    "Deployment": _TEMPLATE,
    "StatefulSet": _TEMPLATE,
    "DaemonSet": _TEMPLATE,
    "ReplicaSet": _TEMPLATE,
    "ReplicationController": _TEMPLATE,
    "Job": _TEMPLATE,
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}
"""Where the specification of the pods is, by the kind of the object."""
EPHEMERAL: Final = "ephemeralContainers"
CONTAINERS: Final = ("containers", "initContainers", EPHEMERAL)


class ReviewInvalid(Invalid):
    """The request is no AdmissionReview that can be answered."""


@dataclass(frozen=True, slots=True)
class PodImage:
    """An image that an object names. `path`: its JSON Pointer in the object; it has only words and numbers."""

    path: str
    written: str


@dataclass(frozen=True, slots=True)
class Review:
    """A review. `subject`: the object for messages. `images`: those that have to be judged."""

    uid: str
    subject: str
    images: tuple[PodImage, ...]


class VerdictKind(StrEnum):
    """What becomes of an image."""

    KEEP = "keep"
    """Admitted as it is written."""
    PIN = "pin"
    """Admitted by its digest."""
    UNCHECKED = "unchecked"
    """Admitted although it could not be checked, as the operator configured it."""
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about an image. `replacement`: for PIN, what is written in its place. `reason`: for people."""

    kind: VerdictKind
    reason: str
    replacement: str = ""


def parse_review(raw: bytes) -> Review:
    """Parse the body of a request. Raises: ReviewInvalid."""
    try:
        document = decode(raw, dict[str, Any])
    except msgspec.DecodeError as error:
        raise ReviewInvalid(f"the body is no JSON object: {error}") from error
    if (document.get("apiVersion"), document.get("kind")) != (API_VERSION, KIND):
        raise ReviewInvalid(f"the body is not an {KIND} of {API_VERSION}")
    request = _table(document, "request", "request")
    uid = request.get("uid")
    if not isinstance(uid, str) or not uid or len(uid) > 200:
        raise ReviewInvalid("request.uid is missing")
    operation = request.get("operation")
    if operation in ("DELETE", "CONNECT"):
        return Review(uid, "", ())
    if operation not in ("CREATE", "UPDATE"):
        raise ReviewInvalid(
            f"request.operation is {quote(str(operation), 40)}; expected CREATE, UPDATE, DELETE or CONNECT"
        )
    shown = _table(request, "object", "request.object")
    kind = shown.get("kind")
    at = POD_SPECS.get(kind) if isinstance(kind, str) else None
    if at is None:
        raise ReviewInvalid(
            f"objects of kind {quote(str(kind), 80)} are not judged; expected one of {', '.join(POD_SPECS)}"
        )
    lists = (EPHEMERAL,) if request.get("subResource") == EPHEMERAL else CONTAINERS
    images = _images(shown, at, lists)
    if operation == "UPDATE":
        before = dict(_by_name(_table(request, "oldObject", "request.oldObject"), at, lists))
        images = {where: image for where, image in images.items() if before.get(image.name) != image.written}
    if len(images) > MAX_IMAGES:
        raise ReviewInvalid(f"the object names {len(images)} images; at most {MAX_IMAGES} are judged")
    found = tuple(PodImage(where, image.written) for where, image in images.items())
    return Review(uid, _subject(request, shown, str(kind)), found)


def review_response(review: Review, verdicts: Mapping[str, Verdict]) -> bytes:
    """Return the response to a review, with a verdict for each image as it is written."""
    judged = [(image, verdicts[image.written]) for image in review.images]
    refused = [_line(image, verdict) for image, verdict in judged if verdict.kind is VerdictKind.REFUSE]
    if refused:
        return refusal(review.uid, f"boltseal refuses {review.subject}: {'; '.join(dict.fromkeys(refused))}")
    response: dict[str, Any] = {"uid": review.uid, "allowed": True}
    patch = [
        {"op": "replace", "path": image.path, "value": verdict.replacement}
        for image, verdict in judged
        if verdict.kind is VerdictKind.PIN
    ]
    if patch:
        response |= {"patchType": "JSONPatch", "patch": b64encode(msgspec.json.encode(patch)).decode()}
    unchecked = [_line(image, verdict) for image, verdict in judged if verdict.kind is VerdictKind.UNCHECKED]
    if unchecked:
        response["warnings"] = [f"boltseal could not check {line}"[:250] for line in dict.fromkeys(unchecked)][:10]
    return _document(response)


def refusal(uid: str, message: str) -> bytes:
    """Return the response that refuses an object, with the reason that the API server shows to the user."""
    status = {"status": "Failure", "code": 403, "reason": "Forbidden", "message": message[:MAX_MESSAGE]}
    return _document({"uid": uid, "allowed": False, "status": status})


@dataclass(frozen=True, slots=True)
class _NamedImage:
    """An image, and by which list and name its container is known in another version of the object."""

    name: tuple[str, str]
    written: str


def _images(shown: Mapping[str, Any], at: Sequence[str], lists: Sequence[str]) -> dict[str, _NamedImage]:
    """Return the images of an object by their JSON Pointers. Raises: ReviewInvalid: the shape is not that of pods."""
    spec: Mapping[str, Any] = shown
    for depth, word in enumerate(at, 1):
        spec = _table(spec, word, ".".join(at[:depth]))
    found = {}
    for word in lists:
        for number, container in _items(spec, word):
            written = container.get("image")
            if written is None or written == "":  # the API server refuses a pod with it; a template may lack it
                continue
            found[f"/{'/'.join(at)}/{word}/{number}/image"] = _image(word, number, container, written)
    if EPHEMERAL in lists and len(lists) == 1:
        return found
    for number, volume in _items(spec, "volumes"):
        source = volume.get("image")
        if source is None:
            continue
        if not isinstance(source, dict):
            raise ReviewInvalid(f"volumes[{number}].image is not an object")
        written = source.get("reference")
        if written is not None and written != "":
            found[f"/{'/'.join(at)}/volumes/{number}/image/reference"] = _image("volumes", number, volume, written)
    return found


def _image(word: str, number: int, item: Mapping[str, Any], written: object) -> _NamedImage:
    if not isinstance(written, str):
        raise ReviewInvalid(f"the image of {word}[{number}] is not a text")
    return _NamedImage((word, str(item.get("name"))), written)


def _by_name(
    before: Mapping[str, Any], at: Sequence[str], lists: Sequence[str]
) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the images of the former object by the names of their containers; none for a name that is there twice."""
    images = list(_images(before, at, lists).values())
    names = [image.name for image in images]
    yield from ((image.name, image.written) for image in images if names.count(image.name) == 1)


def _items(spec: Mapping[str, Any], word: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    items = spec.get(word)
    if items is None:
        return
    if not isinstance(items, list):
        raise ReviewInvalid(f"{word} is not a list")
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise ReviewInvalid(f"{word}[{number}] is not an object")
        yield number, item


def _table(table: Mapping[str, Any], word: str, shown: str) -> dict[str, Any]:
    found = table.get(word)
    if not isinstance(found, dict):
        raise ReviewInvalid(f"{shown} is not an object")
    return found


def _subject(request: Mapping[str, Any], shown: Mapping[str, Any], kind: str) -> str:
    metadata = shown.get("metadata")
    fields: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
    name = request.get("name") or fields.get("name") or fields.get("generateName") or "without a name"
    namespace = request.get("namespace")
    return f"{kind} {quote(f'{namespace}/{name}' if namespace else str(name), 200)[1:-1]}"


def _line(image: PodImage, verdict: Verdict) -> str:
    return f"{quote(image.written, 300)[1:-1]}: {verdict.reason}"


def _document(response: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": KIND, "response": response})
