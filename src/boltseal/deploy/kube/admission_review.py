"""AdmissionReview of Kubernetes (admission.k8s.io/v1): which images an object names, and the response. Pure.

    Pod                                                   spec
    PodTemplate                                           template.spec
    Deployment, StatefulSet, DaemonSet, ReplicaSet,
    ReplicationController, Job                            spec.template.spec
    CronJob                                               spec.jobTemplate.spec.template.spec

In each of these: `containers`, `initContainers`, `ephemeralContainers`, and volumes with an image. An update is asked only about the
images that it changes: an object that was created before must stay usable, and its pods are asked about when they are created.

The review is from the API server, the object in it from any user of the cluster: it may have any shape and size. An object that can't be
judged is refused by a response. An error (`ReviewInvalid`) is only for a request that is no review: with `failurePolicy: Ignore` the
API server admits the object after an error, so no user may be able to cause one.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
BEGINNING_BYTES: Final = 1024
"""How much of a review that is too large is kept, to find its uid."""
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
CONTAINERS: Final = ("containers", "initContainers", "ephemeralContainers")
_uid_of = re.compile(
    rb'\s*\{(?:\s*"(?:kind|apiVersion)"\s*:\s*"[\w./]{1,80}"\s*,)*\s*"request"\s*:\s*\{\s*"uid"\s*:\s*"([\w-]{1,200})"',
    re.ASCII,
).match
"""The API server sends the uid before anything that a user has written."""


class ReviewInvalid(Invalid):
    """The request is no AdmissionReview that can be answered."""


@dataclass(frozen=True, slots=True)
class PodImage:
    """An image that an object names. `path`: its JSON Pointer in the object; it has only words and numbers."""

    path: str
    written: str


@dataclass(frozen=True, slots=True)
class Review:
    """A review. `subject`: the object for messages. `images`: those that have to be judged.

    `unreadable`: why the object is refused without a look at its images; "" if it can be judged.
    """

    uid: str
    subject: str
    images: tuple[PodImage, ...]
    namespace: str = ""
    unreadable: str = ""


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


class _ShapeUnknown(Exception):
    """The object has another shape than that of its kind."""


def parse_review(raw: bytes) -> Review:
    """Parse the body of a request. Raises: ReviewInvalid: it is no review, or of a kind that is not judged."""
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
    before = _table(request, "oldObject", "request.oldObject") if operation == "UPDATE" else None
    namespace = request.get("namespace")
    subject = _subject(request, shown, str(kind))
    review = Review(uid, subject, (), namespace if isinstance(namespace, str) else "")
    try:
        images = _images(shown, at)
        if before is not None:
            former = dict(_by_name(before, at))
            images = {where: image for where, image in images.items() if former.get(image.name) != image.written}
    except _ShapeUnknown as error:
        return replace(review, unreadable=str(error))
    if len(images) > MAX_IMAGES:
        return replace(review, unreadable=f"it names {len(images)} images; at most {MAX_IMAGES} are judged")
    return replace(review, images=tuple(PodImage(where, image.written) for where, image in images.items()))


def refuse_too_large(beginning: bytes, why: str) -> bytes | None:
    """Return the refusal of a review of which only the first bytes were kept; None: they have no uid, so it is no review.

    `why`: in words that follow "its review".
    """
    found = _uid_of(beginning)
    if found is None:
        return None
    return refusal(found[1].decode(), f"boltseal refuses the object, whose images can't be judged: its review {why}")


def review_response(review: Review, verdicts: Mapping[str, Verdict]) -> bytes:
    """Return the response to a review, with a verdict for each image as it is written."""
    if review.unreadable:
        return refusal(review.uid, f"boltseal refuses {review.subject}: {review.unreadable}")
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


def _images(shown: Mapping[str, Any], at: Sequence[str]) -> dict[str, _NamedImage]:
    """Return the images of an object by their JSON Pointers. Raises: _ShapeUnknown: the shape is not that of pods."""
    spec: object = shown
    for depth, word in enumerate(at, 1):
        spec = spec.get(word) if isinstance(spec, dict) else None
        if not isinstance(spec, dict):
            raise _ShapeUnknown(f"{'.'.join(at[:depth])} is not an object")
    assert isinstance(spec, dict)  # noqa: S101  # `at` is never empty
    found = {}
    for word in CONTAINERS:
        for number, container in _items(spec, word):
            written = container.get("image")
            if written is None or written == "":  # the API server refuses a pod with it; a template may lack it
                continue
            found[f"/{'/'.join(at)}/{word}/{number}/image"] = _image(word, number, container, written)
    for number, volume in _items(spec, "volumes"):
        source = volume.get("image")
        if source is None:
            continue
        if not isinstance(source, dict):
            raise _ShapeUnknown(f"volumes[{number}].image is not an object")
        written = source.get("reference")
        if written is not None and written != "":
            found[f"/{'/'.join(at)}/volumes/{number}/image/reference"] = _image("volumes", number, volume, written)
    return found


def _image(word: str, number: int, item: Mapping[str, Any], written: object) -> _NamedImage:
    if not isinstance(written, str):
        raise _ShapeUnknown(f"the image of {word}[{number}] is not a text")
    return _NamedImage((word, str(item.get("name"))), written)


def _by_name(before: Mapping[str, Any], at: Sequence[str]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the images of the former object by the names of their containers; none for a name that is there twice."""
    images = list(_images(before, at).values())
    times = Counter(image.name for image in images)
    yield from ((image.name, image.written) for image in images if times[image.name] == 1)


def _items(spec: Mapping[str, Any], word: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    items = spec.get(word)
    if items is None:
        return
    if not isinstance(items, list):
        raise _ShapeUnknown(f"{word} is not a list")
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise _ShapeUnknown(f"{word}[{number}] is not an object")
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
