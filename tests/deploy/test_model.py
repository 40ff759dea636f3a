"""A project as Compose resolved it, and what a release makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from boltseal.deploy.compose_model import (
    MOUNTED_LABEL,
    LockMismatch,
    ModelInvalid,
    locked_digests,
    merge_services,
    parse_model,
    parse_variables,
    release_text,
    unlocked_builds,
    variables_query,
)
from boltseal.errors import Invalid
from boltseal.lockfile.document import Lock, LockedImage, lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

ONE, TWO = (Digest("sha256", letter * 64) for letter in "12")
APP = "localhost:5000/shop/app:1.4.2"


def document(**services: Any) -> dict[str, Any]:
    """What Compose prints of a project of these services."""
    return {"name": "shop", "services": services}


def raw(**services: Any) -> bytes:
    """The same, as bytes."""
    return json.dumps(document(**services)).encode()


def lock(image: str = APP, digest: Digest | None = ONE) -> Lock:
    """A lock of one image."""
    return Lock((LockedImage(lock_key(Reference.parse(image)), digest, 0),))


def text(made: bytes) -> dict[str, Any]:
    """What was made for Compose, read again."""
    found: dict[str, Any] = json.loads(made)
    return found


def of(value: str) -> str:
    """A stand-in for the HMAC."""
    return f"mark of {len(value)} {value[-30:]}"


def test_what_compose_says_is_read() -> None:
    """Its image, how many, its environment and where its data is."""
    volumes = [{"type": "volume", "source": "db", "target": "/data"}, {"type": "tmpfs", "target": "/tmp"}]
    said = {"image": APP, "scale": 2, "environment": {"A": "x", "B": None, "C": 1}, "volumes": volumes}
    model = parse_model(raw(web=said, jobs={"build": {"context": "/srv"}, "deploy": {"replicas": 0}}))
    web, jobs = model.services["web"], model.services["jobs"]

    assert (web.image.familiar(), web.wanted, web.build) == (APP, 2, False)
    assert web.environment == {"A": "x", "B": None, "C": "1"}
    assert web.volumes == ("db at /data",)
    assert (jobs.image.familiar(), jobs.wanted, jobs.build) == ("shop-jobs", 0, True)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{}",
        b"[]",
        b'{"name": "shop", "services": {}}',
        b'{"name": "../x", "services": {"a": {"image": "x"}}}',
        raw(web={}),
        raw(web={"image": "a:b:c"}),
        raw(web={"image": "x", "volumes": [1]}),
        raw(web=None),
        json.dumps({**document(web={"image": "x"}), "secrets": []}).encode(),
        json.dumps({**document(web={"image": "x"}), "secrets": {"s": "x"}}).encode(),
        raw(web={"image": "x", "secrets": 1}),
        raw(web={"image": "x", "secrets": ["s"]}),
        raw(web={"image": "x", "configs": [{"source": []}]}),
        raw(web={"image": "x", "scale": float("inf")}),
        raw(web={"image": "x", "scale": -3}),
        raw(web={"image": "x", "deploy": {"replicas": 10_001}}),
        raw(web={"image": "x", "command": ["\ud800"]}),
        b"[" * 100_000,
    ],
)
def test_what_is_no_project_is_refused(said: bytes) -> None:
    """In one line, whatever Compose printed."""
    with pytest.raises(Invalid):
        parse_model(said)


def test_a_service_that_is_not_there_is_named() -> None:
    """With those that are."""
    with pytest.raises(ModelInvalid, match='no service "wbe"; it has db, web'):
        parse_model(raw(web={"image": APP}, db={"image": APP})).check_services(["wbe"])


def test_the_lock_says_what_each_image_is() -> None:
    """Also where the file pins the same."""
    model = parse_model(raw(web={"image": APP}, api={"image": f"{APP}@{ONE}"}))

    assert locked_digests(model, lock()) == {"api": ONE, "web": ONE}


def test_without_a_lock_a_pin_is_enough() -> None:
    """And a name alone is not."""
    assert locked_digests(parse_model(raw(web={"image": f"{APP}@{ONE}"})), None) == {"web": ONE}
    with pytest.raises(LockMismatch, match=r"there is no boltseal\.lock"):
        locked_digests(parse_model(raw(web={"image": APP})), None)


def test_all_that_is_not_as_locked_is_told_at_once() -> None:
    """A lock older than the file, a pin to something else, a local build that is none any more."""
    locked = Lock((*lock().images, *lock("localhost:5000/shop/made:1", None).images))
    model = parse_model(
        raw(
            a={"image": f"{APP}@{TWO}"},
            b={"image": "localhost:5000/shop/new:1"},
            c={"image": "localhost:5000/shop/made:1"},
        )
    )
    with pytest.raises(LockMismatch) as refused:
        locked_digests(model, locked)

    said = refused.value.message
    assert f"a: the file pins {TWO.short}, boltseal.lock has {ONE.short}" in said
    assert "b: localhost:5000/shop/new:1: it is not in boltseal.lock" in said
    assert "c: localhost:5000/shop/made:1: boltseal.lock has it as built here" in said
    assert "boltseal deploy --update" in said


def test_what_is_built_here_has_no_digest_unless_a_registry_has_it() -> None:
    """`build` and `image` together: the server takes what the pipeline has pushed."""
    model = parse_model(raw(web={"image": APP, "build": {"context": "/srv"}}, own={"build": {"context": "/srv"}}))

    assert locked_digests(model, lock()) == {"web": ONE}
    assert locked_digests(model, None) == {}


def test_what_is_built_here_and_not_locked_is_named_with_the_reason() -> None:
    """No lock, a lock without it, and a lock that knows it as a local build."""
    model = parse_model(raw(web={"image": APP, "build": {"context": "/srv"}}, own={"build": {"context": "/srv"}}))
    other, local = lock("localhost:5000/shop/new:1"), lock(APP, None)

    assert unlocked_builds(model, None, {}) == dict.fromkeys(("own", "web"), "there is no boltseal.lock")
    assert unlocked_builds(model, other, {}) == dict.fromkeys(("own", "web"), "it is not in boltseal.lock")
    assert unlocked_builds(model, local, {})["web"] == "boltseal.lock has it as built here"
    assert unlocked_builds(model, lock(), {"web": ONE}) == {"own": "it is not in boltseal.lock"}


def test_a_digest_in_the_file_counts_beside_a_build() -> None:
    """It is what has to run, and a lock that does not know it refuses it."""
    model = parse_model(raw(web={"image": f"{APP}@{ONE}", "build": {"context": "/srv"}}))

    assert locked_digests(model, None) == {"web": ONE}
    with pytest.raises(LockMismatch, match=r"it is not in boltseal\.lock"):
        locked_digests(model, lock("localhost:5000/shop/new:1"))


def test_what_is_started_names_each_image_and_builds_nothing() -> None:
    """A `$` in it is Compose's own, doubled."""
    said = document(web={"image": APP, "build": {"context": "/srv"}, "pull_policy": "always", "command": ["x"]})
    made = text(release_text(said, {"web": f"{APP}@{ONE}"}, {}, of, {}))

    assert made["services"]["web"] == {"image": f"{APP}@{ONE}", "command": ["x"]}
    assert said["services"]["web"]["build"]  # what was handed in is as it was


def test_secrets_and_configs_are_taken_from_their_copies() -> None:
    """And whoever uses one is started anew when what is in it has changed."""
    said = document(web={"image": APP, "secrets": [{"source": "s"}]}, db={"image": APP})
    said["secrets"] = {"s": {"file": "/srv/s.txt"}}
    first, second = (
        text(release_text(said, {"web": APP, "db": APP}, {"/srv/s.txt": to}, of, {})) for to in ("/a", "/bb")
    )

    assert first["secrets"]["s"]["file"] == "/a"
    assert first["services"]["web"]["labels"][MOUNTED_LABEL] != second["services"]["web"]["labels"][MOUNTED_LABEL]
    assert first["services"]["db"] == second["services"]["db"] == {"image": APP}


def test_a_secret_of_the_environment_counts_by_its_value() -> None:
    """Which the text itself does not have."""
    said = document(web={"image": APP, "secrets": [{"source": "s"}], "labels": {"a": "b"}})
    said["secrets"] = {"s": {"environment": "TOKEN"}}
    marks = [
        text(release_text(said, {"web": APP}, {}, of, {"TOKEN": value}))["services"]["web"]["labels"]
        for value in ("one", "three")
    ]

    assert marks[0][MOUNTED_LABEL] != marks[1][MOUNTED_LABEL]
    assert marks[0]["a"] == "b"


def test_variables_are_asked_for_and_told() -> None:
    """Compose fills them in by its own rules; `$` comes back doubled."""
    said = document(web={"image": APP})
    said["secrets"] = {"s": {"environment": "TOKEN"}, "t": {"file": "/srv/t"}}
    said["configs"] = {"c": {"environment": "OTHER"}, "d": {"content": "x"}}
    model = parse_model(json.dumps(said).encode())

    assert model.variables == ("OTHER", "TOKEN")
    assert json.loads(variables_query(model.variables)) == {
        "x-boltseal-environment": {"OTHER": "${OTHER-}", "TOKEN": "${TOKEN-}"}
    }
    answer = {**said, "x-boltseal-environment": {"OTHER": "", "TOKEN": "a$$b"}}
    assert parse_variables(json.dumps(answer).encode()) == {"OTHER": "", "TOKEN": "a$b"}


def test_services_that_were_not_chosen_stay_as_they_ran() -> None:
    """And what both need is there."""
    before = document(web={"image": "old"}, db={"image": "old"}) | {"volumes": {"db": {}}}
    model = parse_model(json.dumps(document(web={"image": APP}) | {"networks": {"n": {}}}).encode())
    whole = merge_services(model, json.dumps(before).encode(), ["web"])

    assert whole["services"] == {"web": {"image": APP}, "db": {"image": "old"}}
    assert (whole["volumes"], whole["networks"]) == ({"db": {}}, {"n": {}})
    assert merge_services(model, json.dumps(before).encode(), [])["services"] == {"web": {"image": APP}}
    assert merge_services(model, None, ["web"])["services"] == {"web": {"image": APP}}
