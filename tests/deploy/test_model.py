"""A project as Compose resolved it, and the text of a release."""

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
    mounted_text,
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

LOCKED, OTHER = (Digest("sha256", letter * 64) for letter in "12")
APP = "localhost:5000/shop/app:1.4.2"


def document(**services: Any) -> dict[str, Any]:
    """Return the output of Compose for a project with these services."""
    return {"name": "shop", "services": services}


def raw(**services: Any) -> bytes:
    """Return that output as bytes."""
    return json.dumps(document(**services)).encode()


def lock(image: str = APP, digest: Digest | None = LOCKED) -> Lock:
    """Return a lock with one image."""
    return Lock((LockedImage(lock_key(Reference.parse(image)), digest, 0),))


def text(made: bytes) -> dict[str, Any]:
    """Return the parsed text for Compose."""
    found: dict[str, Any] = json.loads(made)
    return found


def test_a_service_is_parsed() -> None:
    """A service is parsed with image, number of containers, environment and volumes."""
    volumes = [{"type": "volume", "source": "db", "target": "/data"}, {"type": "tmpfs", "target": "/tmp"}]
    fields = {"image": APP, "scale": 2, "environment": {"A": "x", "B": None, "C": 1}, "volumes": volumes}
    model = parse_model(raw(web=fields, jobs={"build": {"context": "/srv"}, "deploy": {"replicas": 0}}))
    web, jobs = model.services["web"], model.services["jobs"]

    assert (web.image.familiar(), web.wanted, web.build) == (APP, 2, False)
    assert web.environment == {"A": "x", "B": None, "C": "1"}
    assert web.volumes == ("db at /data",)
    assert (jobs.image.familiar(), jobs.wanted, jobs.build) == ("shop-jobs", 0, True)


@pytest.mark.parametrize(
    "body",
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
def test_malformed_output_is_refused(body: bytes) -> None:
    """Malformed output of Compose is refused in one line."""
    with pytest.raises(Invalid):
        parse_model(body)


def test_an_unknown_service_is_refused() -> None:
    """An unknown service is refused with the list of known ones."""
    with pytest.raises(ModelInvalid, match='no service "wbe"; it has db, web'):
        parse_model(raw(web={"image": APP}, db={"image": APP})).check_services(["wbe"])


def test_digests_come_from_the_lock() -> None:
    """Digests come from the lock, also if the file pins the same digest."""
    model = parse_model(raw(web={"image": APP}, api={"image": f"{APP}@{LOCKED}"}))

    assert locked_digests(model, lock()) == {"api": LOCKED, "web": LOCKED}


def test_without_a_lock_a_pin_is_enough() -> None:
    """Without a lock a pinned reference is accepted, and one without a digest is not."""
    assert locked_digests(parse_model(raw(web={"image": f"{APP}@{LOCKED}"})), None) == {"web": LOCKED}
    with pytest.raises(LockMismatch, match=r"there is no boltseal\.lock"):
        locked_digests(parse_model(raw(web={"image": APP})), None)


def test_all_mismatches_are_in_one_message() -> None:
    """An outdated lock entry, a pin to another digest, and a former local build are in one message."""
    locked = Lock((*lock().images, *lock("localhost:5000/shop/made:1", None).images))
    model = parse_model(
        raw(
            a={"image": f"{APP}@{OTHER}"},
            b={"image": "localhost:5000/shop/new:1"},
            c={"image": "localhost:5000/shop/made:1"},
        )
    )
    with pytest.raises(LockMismatch) as refused:
        locked_digests(model, locked)

    message = refused.value.message
    assert f"a: the file pins {OTHER.short}, boltseal.lock has {LOCKED.short}" in message
    assert "b: localhost:5000/shop/new:1: it is not in boltseal.lock" in message
    assert "c: localhost:5000/shop/made:1: boltseal.lock has it as built here" in message
    assert "boltseal deploy --update" in message


def test_a_missing_lock_is_stated_once() -> None:
    """Without a lock the message names the images, and states once what is missing and which command to run."""
    model = parse_model(raw(a={"image": APP}, b={"image": "localhost:5000/shop/new:1"}))
    with pytest.raises(LockMismatch) as refused:
        locked_digests(model, None)

    assert refused.value.message.count("boltseal.lock") == 1
    assert f"a: {APP}; b: localhost:5000/shop/new:1. Run `boltseal lock` first" in refused.value.message


def test_a_local_build_has_no_digest_unless_it_is_locked() -> None:
    """A service with `build` and `image` has a digest only if it is locked: the host then pulls it."""
    model = parse_model(raw(web={"image": APP, "build": {"context": "/srv"}}, own={"build": {"context": "/srv"}}))

    assert locked_digests(model, lock()) == {"web": LOCKED}
    assert locked_digests(model, None) == {}


def test_unlocked_builds_are_listed_with_the_reason() -> None:
    """Builds without a usable lock entry are listed with the reason for each."""
    model = parse_model(raw(web={"image": APP, "build": {"context": "/srv"}}, own={"build": {"context": "/srv"}}))
    other, local = lock("localhost:5000/shop/new:1"), lock(APP, None)

    assert unlocked_builds(model, None, {}) == dict.fromkeys(("own", "web"), "there is no boltseal.lock")
    assert unlocked_builds(model, other, {}) == dict.fromkeys(("own", "web"), "it is not in boltseal.lock")
    assert unlocked_builds(model, local, {})["web"] == "boltseal.lock has it as built here"
    assert unlocked_builds(model, lock(), {"web": LOCKED}) == {"own": "it is not in boltseal.lock"}


def test_a_digest_in_the_file_counts_beside_a_build() -> None:
    """A digest in the file of a service with a build must run; a lock without it refuses it."""
    model = parse_model(raw(web={"image": f"{APP}@{LOCKED}", "build": {"context": "/srv"}}))

    assert locked_digests(model, None) == {"web": LOCKED}
    with pytest.raises(LockMismatch, match=r"it is not in boltseal\.lock"):
        locked_digests(model, lock("localhost:5000/shop/new:1"))


def test_the_release_text_has_exact_images_and_no_builds() -> None:
    """The release text has digests instead of tags, no builds, and doubled `$` for Compose."""
    compose_output = document(
        web={"image": APP, "build": {"context": "/srv"}, "pull_policy": "always", "command": ["x"]}
    )
    made = text(release_text(compose_output, {"web": f"{APP}@{LOCKED}"}, {}))

    assert made["services"]["web"] == {"image": f"{APP}@{LOCKED}", "command": ["x"]}
    assert compose_output["services"]["web"]["build"]  # the argument is unchanged


def test_secrets_and_configs_are_taken_from_their_copies() -> None:
    """Secrets and configs are read from recorded copies, changed content is noticed, and no label is added for it."""
    compose_output = document(web={"image": APP, "secrets": [{"source": "s"}]}, db={"image": APP})
    compose_output["secrets"] = {"s": {"file": "/srv/s.txt"}}
    first, second = (
        text(release_text(compose_output, {"web": APP, "db": APP}, {"/srv/s.txt": to})) for to in ("/a", "/bb")
    )

    assert first["secrets"]["s"]["file"] == "/a"
    assert mounted_text(first, "web", {}) != mounted_text(second, "web", {})
    assert first["services"] == second["services"] == compose_output["services"]
    assert mounted_text(first, "db", {}) == ""


def test_a_secret_of_the_environment_counts_by_its_value() -> None:
    """A secret from the environment counts by its value, which the text does not have."""
    compose_output = document(web={"image": APP, "secrets": [{"source": "s"}], "labels": {"a": "b"}})
    compose_output["secrets"] = {"s": {"environment": "TOKEN"}}
    made = text(release_text(compose_output, {"web": APP}, {}))

    assert mounted_text(made, "web", {"TOKEN": "one"}) != mounted_text(made, "web", {"TOKEN": "three"})
    assert made["services"]["web"]["labels"] == {"a": "b"}


def test_the_label_of_earlier_versions_is_removed() -> None:
    """A label that an earlier version added for secrets is removed, as Compose's hash would count it."""
    compose_output = document(
        web={"image": APP, "labels": {MOUNTED_LABEL: "1"}}, db={"image": APP, "labels": {"a": "b"}}
    )
    made = text(release_text(compose_output, {"web": APP, "db": APP}, {}))

    assert made["services"] == {"web": {"image": APP}, "db": {"image": APP, "labels": {"a": "b"}}}


@pytest.mark.parametrize("written", [f"{APP}@{LOCKED}", f"localhost:5000/shop/app@{LOCKED}"])
def test_a_pinned_image_keeps_its_spelling(written: str) -> None:
    """An image that the file pins by the same digest keeps its spelling, so that Compose's hash is that of the file."""
    made = text(
        release_text(document(web={"image": written, "develop": {"watch": []}}), {"web": f"{APP}@{LOCKED}"}, {})
    )

    assert made["services"]["web"] == {"image": written, "develop": {"watch": []}}


def test_another_digest_in_the_file_is_replaced() -> None:
    """An image by another digest or tag is replaced by the image to start."""
    for written in (f"{APP}@sha256:{'0' * 64}", f"localhost:5000/shop/app:9@{LOCKED}", APP):
        made = text(release_text(document(web={"image": written}), {"web": f"{APP}@{LOCKED}"}, {}))

        assert made["services"]["web"]["image"] == f"{APP}@{LOCKED}"


def test_variables_are_resolved_by_compose() -> None:
    """Compose resolves variables by its own rules, and a doubled `$` is undone."""
    compose_output = document(web={"image": APP})
    compose_output["secrets"] = {"s": {"environment": "TOKEN"}, "t": {"file": "/srv/t"}}
    compose_output["configs"] = {"c": {"environment": "OTHER"}, "d": {"content": "x"}}
    model = parse_model(json.dumps(compose_output).encode())

    assert model.variables == ("OTHER", "TOKEN")
    assert json.loads(variables_query(model.variables)) == {
        "x-boltseal-environment": {"OTHER": "${OTHER-}", "TOKEN": "${TOKEN-}"}
    }
    answer = {**compose_output, "x-boltseal-environment": {"OTHER": "", "TOKEN": "a$$b"}}
    assert parse_variables(json.dumps(answer).encode()) == {"OTHER": "", "TOKEN": "a$b"}


def test_services_that_were_not_chosen_stay_as_they_ran() -> None:
    """Services that were not selected keep their former text, with the networks and volumes of both."""
    before = document(web={"image": "old"}, db={"image": "old"}) | {"volumes": {"db": {}}}
    model = parse_model(json.dumps(document(web={"image": APP}) | {"networks": {"n": {}}}).encode())
    whole = merge_services(model, json.dumps(before).encode(), ["web"])

    assert whole["services"] == {"web": {"image": APP}, "db": {"image": "old"}}
    assert (whole["volumes"], whole["networks"]) == ({"db": {}}, {"n": {}})
    assert merge_services(model, json.dumps(before).encode(), [])["services"] == {"web": {"image": APP}}
    assert merge_services(model, None, ["web"])["services"] == {"web": {"image": APP}}
