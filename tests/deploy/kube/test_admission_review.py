"""AdmissionReview v1: where objects name images, what an update is asked about, the response, and objects of any shape."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.deploy.kube.admission_review import (
    BEGINNING_BYTES,
    MAX_IMAGES,
    POD_SPECS,
    ReviewInvalid,
    Verdict,
    VerdictKind,
    parse_review,
    refuse_too_large,
    review_response,
)
from tests.deploy.kube.reviews import UID, object_of, review

POD = {
    "containers": [{"name": "app", "image": "r.test/app:1"}, {"name": "log", "image": "r.test/log:2"}],
    "initContainers": [{"name": "init", "image": "r.test/init:3"}],
    "ephemeralContainers": [{"name": "debug", "image": "r.test/debug:4"}],
    "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "data", "image": {"reference": "r.test/data:5"}}],
}
WORDS = (
    "containers/0/image",
    "containers/1/image",
    "initContainers/0/image",
    "ephemeralContainers/0/image",
    "volumes/1/image/reference",
)


def paths(raw: bytes) -> dict[str, str]:
    return {image.path: image.written for image in parse_review(raw).images}


def answered(raw: bytes, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    """Return the response to a review."""
    document = json.loads(review_response(parse_review(raw), verdicts))
    assert (document["apiVersion"], document["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: dict[str, Any] = document["response"]
    assert response["uid"] == UID
    return response


def at(document: Any, pointer: str) -> Any:
    """Return what a JSON Pointer names (RFC 6901)."""
    for word in pointer.split("/")[1:]:
        document = document[int(word)] if isinstance(document, list) else document[word]
    return document


@pytest.mark.parametrize("kind", POD_SPECS)
def test_every_image_of_every_kind_is_found_where_it_is(kind: str) -> None:
    """Containers of all lists and volumes with an image are found in pods and in each kind with a pod template."""
    shown = object_of(kind, POD)
    found = paths(review(shown))

    assert list(found) == [f"/{'/'.join(POD_SPECS[kind])}/{word}" for word in WORDS]
    assert {path: at(shown, path) for path in found} == found


@pytest.mark.parametrize("kind", POD_SPECS)
def test_an_update_is_asked_only_about_the_images_that_it_changes(kind: str) -> None:
    """An object from before stays usable; a changed, added or moved image is judged."""
    now = json.loads(json.dumps(POD))
    now["containers"][1]["image"] = "r.test/log:3"
    now["containers"].append({"name": "new", "image": "r.test/new:1"})
    now["initContainers"].append({"name": "app", "image": "r.test/app:1"})
    found = paths(review(object_of(kind, now), object_of(kind, POD), "UPDATE"))
    same = paths(review(object_of(kind, POD), object_of(kind, POD), "UPDATE"))

    assert same == {}
    assert list(found.values()) == ["r.test/log:3", "r.test/new:1", "r.test/app:1"]


def test_a_name_that_is_there_twice_hides_no_image() -> None:
    """Of two containers of one name neither counts as the former one."""
    twice = {"containers": [{"name": "a", "image": "r.test/a:1"}, {"name": "a", "image": "r.test/b:1"}]}
    pod = object_of("Pod", twice)

    assert len(paths(review(pod, pod, "UPDATE"))) == 2


def test_a_debug_container_is_judged_and_the_containers_beside_it_are_not() -> None:
    """`kubectl debug` updates pods/ephemeralcontainers; the images of before are not asked about again."""
    before = POD | {"ephemeralContainers": []}
    raw = review(object_of("Pod", POD), object_of("Pod", before), "UPDATE", subResource="ephemeralcontainers")

    assert list(paths(raw).values()) == ["r.test/debug:4"]


@pytest.mark.parametrize("operation", ["DELETE", "CONNECT"])
def test_a_deletion_is_always_allowed(operation: str) -> None:
    """An object that is not judged can be deleted, whatever it is."""
    assert answered(review(None, operation=operation), {}) == {
        "uid": UID,
        "allowed": True,
    }


def test_a_template_without_an_image_is_left_to_the_api_server() -> None:
    """A template may lack an image; nothing is made up for it."""
    assert paths(review(object_of("Deployment", {"containers": [{"name": "a"}, {"name": "b", "image": ""}]}))) == {}
    assert paths(review(object_of("Deployment", {}))) == {}


# The response


def test_tags_are_replaced_by_a_json_patch_that_does_just_that() -> None:
    """Applied to the object, the patch changes the pinned images and nothing else."""
    raw = review(object_of("Deployment", POD))
    found = parse_review(raw)
    verdicts = {image.written: Verdict(VerdictKind.KEEP, "it is a digest") for image in found.images}
    verdicts["r.test/app:1"] = Verdict(VerdictKind.PIN, "entry 4", "r.test/app:1@sha256:aa")
    verdicts["r.test/data:5"] = Verdict(VerdictKind.PIN, "entry 5", "r.test/data:5@sha256:bb")
    response = answered(raw, verdicts)
    patch = json.loads(b64decode(response["patch"]))

    assert (response["allowed"], response["patchType"], "warnings" in response) == (True, "JSONPatch", False)
    assert patch == [
        {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "r.test/app:1@sha256:aa"},
        {"op": "replace", "path": "/spec/template/spec/volumes/1/image/reference", "value": "r.test/data:5@sha256:bb"},
    ]


def test_nothing_to_change_is_no_patch() -> None:
    """A second review of the same object has no patch."""
    raw = review(object_of("Pod", {"containers": [{"name": "a", "image": "r.test/a@sha256:aa"}]}))
    response = answered(raw, {"r.test/a@sha256:aa": Verdict(VerdictKind.KEEP, "it is a digest")})

    assert set(response) == {"uid", "allowed"}


def test_one_refused_image_refuses_the_object_and_says_why() -> None:
    """The message names object, image and reason; there is no patch then."""
    raw = review(object_of("Pod", {"containers": [{"name": n, "image": f"r.test/{n}:1"} for n in ("a", "b", "b2")]}))
    verdicts = {
        "r.test/a:1": Verdict(VerdictKind.PIN, "entry 4", "r.test/a:1@sha256:aa"),
        "r.test/b:1": Verdict(VerdictKind.REFUSE, "the ledger proves another digest"),
        "r.test/b2:1": Verdict(VerdictKind.UNCHECKED, "no answer"),
    }
    response = answered(raw, verdicts)

    assert (response["allowed"], "patch" in response, response["status"]["code"]) == (False, False, 403)
    assert response["status"]["message"] == (
        "boltseal refuses Pod shop/web: r.test/b:1: the ledger proves another digest"
    )


def test_an_unchecked_image_is_a_warning() -> None:
    """What could not be checked is admitted with a warning of a length that the API server passes on."""
    raw = review(object_of("Pod", {"containers": [{"name": "a", "image": "r.test/a:1"}]}))
    response = answered(raw, {"r.test/a:1": Verdict(VerdictKind.UNCHECKED, "x" * 1000)})

    assert response["allowed"] is True
    assert len(response["warnings"][0]) == 250


# Hostile objects


@pytest.mark.parametrize(
    "spec",
    [
        None,
        [],
        "x",
        {"containers": {"0": {}}},
        {"containers": "x"},
        {"containers": [None]},
        {"containers": [["image"]]},
        {"containers": [{"image": 7}]},
        {"containers": [{"image": ["r.test/a:1"]}]},
        {"containers": [{"image": {"r": 1}}]},
        {"volumes": [{"image": "r.test/a:1"}]},
        {"volumes": [{"image": {"reference": 7}}]},
        {"containers": [{"name": str(n), "image": f"r.test/a:{n}"} for n in range(MAX_IMAGES + 1)]},
    ],
)
@pytest.mark.parametrize("kind", ["Pod", "CronJob"])
def test_a_shape_that_is_not_understood_is_refused(kind: str, spec: object) -> None:
    """An object whose images can't be found is refused by a response, and not by an error, which failurePolicy Ignore admits."""
    raw = review(object_of(kind, spec))
    response = answered(raw, {})

    assert parse_review(raw).images == ()
    assert (response["allowed"], response["status"]["code"]) == (False, 403)
    assert response["status"]["message"].startswith(f"boltseal refuses {kind} shop/web: ")


@pytest.mark.parametrize("kind", ["Pod", "CronJob"])
def test_a_former_object_that_is_not_understood_refuses_the_update(kind: str) -> None:
    """What an update changes is not known then."""
    raw = review(object_of(kind, POD), object_of(kind, {"containers": "x"}), "UPDATE")

    assert answered(raw, {})["allowed"] is False


def test_a_review_that_is_too_large_is_refused_by_its_first_bytes() -> None:
    """The API server sends the uid before anything that a user wrote, so an object of any size gets a refusal."""
    refused = refuse_too_large(review(object_of("Pod", POD))[:BEGINNING_BYTES], "has more than 8 bytes")

    assert refused is not None
    assert json.loads(refused)["response"]["status"]["message"].endswith(
        "can't be judged: its review has more than 8 bytes"
    )
    assert json.loads(refused)["response"]["uid"] == UID
    assert json.loads(refused)["response"]["allowed"] is False


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b" " * BEGINNING_BYTES,
        b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"object":{"uid":"a"}',
        b'{"spec":{"request":{"uid":"a"}',
        b'{"request":{"uid":""',
        b'{"request":{"uid":"' + b"x" * 201 + b'"',
        b'{"request":{"uid":"\xff"',
    ],
)
def test_a_text_without_a_uid_at_its_beginning_is_no_review(beginning: bytes) -> None:
    """No uid is taken from another place, where a user may have written it."""
    assert refuse_too_large(beginning, "has more than 8 bytes") is None


def test_the_time_of_an_update_grows_with_its_containers_and_not_with_their_square() -> None:
    """An object that grew to many containers by updates does not stop the webhook."""

    def time_of(count: int) -> float:
        shown = object_of(
            "PodTemplate", {"containers": [{"name": f"c{n}", "image": "r.test/a:1"} for n in range(count)]}
        )
        raw = review(shown, shown, "UPDATE")
        return min(timed(raw) for _ in range(3))

    def timed(raw: bytes) -> float:
        began = time.thread_time()
        assert parse_review(raw).images == ()
        return time.thread_time() - began

    assert time_of(20_000) < 40 * time_of(2_000)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff",
        b"{}",
        review({}, apiVersion="x").replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"),
        review(object_of("Pod", POD)).replace(b"AdmissionReview", b"Review"),
        review(object_of("Pod", POD), uid=""),
        review(object_of("Pod", POD), uid=7),
        review(object_of("Pod", POD), uid="x" * 201),
        review(object_of("Pod", POD), operation="PATCH"),
        review(object_of("Pod", POD)).replace(b'"CREATE"', b'["CREATE"]'),
        review(None),
        review({"kind": "Secret"}),
        review({"kind": ["Pod"]}),
        review({"kind": "Pod", "spec": POD}, None, "UPDATE"),
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":[]}',
    ],
)
def test_what_is_no_review_is_refused(raw: bytes) -> None:
    """A request that can't be answered is an error, which the cluster handles as its failurePolicy says."""
    with pytest.raises(ReviewInvalid):
        parse_review(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["containers", "image", "name", "volumes", "reference", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(spec=JSON)
def test_any_object_is_refused_or_its_images_are_found(spec: Any) -> None:
    """Whatever a user writes as a specification, the result is a refusal or images at the paths that are named."""
    shown = object_of("Pod", spec)
    found = parse_review(review(shown))

    assert not (found.unreadable and found.images)
    assert all(at(shown, image.path) == image.written for image in found.images)


def test_names_in_messages_are_quoted() -> None:
    """A name with control characters or of any length does not reach a terminal as it is."""
    raw = review(object_of("Pod", {}), name="\x1b[31m" + "x" * 1000)

    assert "\x1b" not in parse_review(raw).subject
    assert len(parse_review(raw).subject) < 300
