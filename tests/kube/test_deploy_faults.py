"""Faults during a deploy to a cluster: lost answers, refusals, expired logins, two people at once. Kills: `test_deploy_killed.py`."""

from __future__ import annotations

import base64
import gzip
from dataclasses import replace

import msgspec
import pytest

from boltseal.deploy.release_file import format_stored, parse_stored
from tests.cli import program
from tests.kube.api_server import ApiServer
from tests.kube.https_listener import Fault, Refused
from tests.kube.shop import KubeShop, config_map

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.parametrize("carried_out", [False, True])
def test_a_lost_connection_leaves_a_release_that_can_be_resumed(shop: KubeShop, carried_out: bool) -> None:
    """If it is not known whether an apply was carried out, nothing is gone back from; --resume ends the release."""
    shop.write("1.0")
    shop.deploy()
    shop.write("2.0")
    shop.api.faults.append(Fault(r"PATCH /apis/apps/(?!.*dryRun)", carried_out=carried_out, times=100))
    lost = shop.deploy()
    state = [each["status"] for each in shop.releases()]
    shop.api.faults.clear()
    resumed = shop.run("deploy", "--resume", "--kube", "prod", "-p", "shop")

    assert lost.code == 3
    assert "release 2 of shop was left starting: `boltseal deploy --resume --project-name shop --kube prod" in lost.err
    assert state == ["healthy", "unfinished: starting"]
    assert (resumed.code, shop.running()) == (0, "2.0")


def test_the_cluster_is_unreachable_while_a_rollout_is_waited_for(shop: KubeShop) -> None:
    """A short outage is waited out; the rollout goes on."""
    shop.write("1.0")
    shop.deploy()
    shop.api.controllers.delay_s = 3
    shop.write("2.0")
    asked = r"GET /apis/apps/v1/namespaces/shop/deployments/web"
    shop.api.on_request = lambda each: (
        shop.api.faults.append(Fault(asked, times=15, after=1)) if _first_write(shop.api, each) else None
    )
    done = shop.deploy()

    assert done.code == 0, done.err
    assert "no answer, asking again" in done.err
    assert shop.running() == "2.0"


def _first_write(api: ApiServer, asked: str) -> bool:
    return asked.startswith("PATCH /api/v1") and "dryRun" not in asked and not api.faults


@pytest.mark.parametrize(
    ("pattern", "refused", "message"),
    [
        (
            r"PATCH /api/v1/.*/configmaps/(?!.*dryRun)",
            Refused(
                403, "Forbidden", 'configmaps "new" is forbidden: exceeded quota: few, requested: count/configmaps=1'
            ),
            "exceeded quota: few",
        ),
        (
            r"PATCH /apis/apps/(?!.*dryRun)",
            Refused(400, "BadRequest", 'admission webhook "policy.example.com" denied the request: no'),
            "denied the request: no",
        ),
    ],
)
def test_a_refusal_after_the_dry_run_goes_back(shop: KubeShop, pattern: str, refused: Refused, message: str) -> None:
    """If one object of several is refused, what was applied is taken back, and what is new is removed."""
    shop.write("1.0")
    shop.deploy()
    shop.write("2.0", config_map("first", a="1"), config_map("new", a="1"))
    shop.api.faults.append(Fault(pattern, refused, times=1))
    done = shop.deploy()

    assert done.code == 1
    assert message in done.out + done.err
    assert "release 2 of shop failed; release 1 runs again" in done.out
    assert (shop.running(), shop.api.names("ConfigMap")) == ("1.0", [])


def test_a_refusal_in_the_dry_run_changes_nothing(shop: KubeShop) -> None:
    """What the API server would refuse makes no release."""
    shop.write("1.0")
    shop.deploy()
    shop.write("2.0")
    denied = Refused(403, "Forbidden", 'admission webhook "policy.example.com" denied the request: unsigned')
    shop.api.faults.append(Fault(r"PATCH .*dryRun", denied))
    done = shop.deploy()

    assert done.code == 1
    assert "denied the request: unsigned" in done.err
    assert (shop.running(), len(shop.releases())) == ("1.0", 1)


def test_a_quota_that_stops_pods_is_the_reason(shop: KubeShop) -> None:
    """A rollout that waits for pods that a quota forbids ends at --wait with that reason."""
    shop.write("1.0")
    shop.deploy()
    shop.write("2.0")
    shop.api.controllers.quota = 'pods "web-1" is forbidden: exceeded quota: few'
    shop.api.on_request = lambda asked: _without_quota(shop.api) if "force=true" in asked else None
    done = shop.deploy(wait="2s")

    assert done.code == 1
    assert "0 of 2 replicas are updated: pods" in done.err
    assert "exceeded quota: few" in done.err


def _without_quota(api: ApiServer) -> None:
    api.controllers.quota = ""


def test_an_expired_login_is_reported_and_resumed(shop: KubeShop) -> None:
    """With credentials that are not valid any more the release is left as it is; after a login it is resumed."""
    shop.write("1.0")
    shop.deploy()
    shop.write("2.0")
    expired = Refused(401, "Unauthorized", "Unauthorized")
    shop.api.faults.append(Fault(r"PATCH /apis/(?!.*dryRun)", expired))
    lost = shop.deploy()
    shop.api.faults.clear()
    resumed = shop.run("deploy", "--resume", "--kube", "prod", "-p", "shop")

    assert lost.code == 3
    assert "log in to the cluster again" in lost.err
    assert (resumed.code, shop.running()) == (0, "2.0")


def test_two_people_at_once(shop: KubeShop) -> None:
    """A deploy is refused while another machine deploys the project; its lock is removed by `release unlock` only."""
    shop.write("1.0")
    shop.deploy()
    path = "/api/v1/namespaces/shop/secrets"
    seen: list[program.Run] = []

    def second(asked: str) -> None:
        if asked.startswith("PATCH /apis/apps/") and "dryRun" not in asked and not seen:
            shop.api.on_request = lambda _: None
            seen.append(shop.deploy())

    shop.write("2.0")
    shop.api.on_request = second
    first = shop.deploy()
    lock = shop.api.put(
        "v1", "Secret", "shop", "boltseal.shop.lock", {"apiVersion": "v1", "kind": "Secret", "metadata": {}}
    )
    refused = shop.deploy()
    unlocked = shop.run("release", "unlock", "--kube", "prod", "-p", "shop")

    assert first.code == 0, first.err
    assert (seen[0].code, refused.code, unlocked.code) == (3, 3, 0)
    assert "is being deployed" in seen[0].err
    assert f"POST {path}" in "\n".join(shop.api.asked)
    assert lock["metadata"]["name"] not in shop.api.names("Secret")


def test_a_deleted_namespace_ends_a_deploy(shop: KubeShop) -> None:
    """If the namespace is deleted during a deploy, it ends with a message; without the namespace the next one is refused."""
    shop.write("1.0")
    shop.deploy()
    shop.write("2.0")
    shop.api.on_request = lambda asked: (
        shop.api.delete_namespace("shop") if asked.startswith("PATCH /apis/apps/") and "dryRun" not in asked else None
    )
    done = shop.deploy()
    shop.api.on_request = lambda _: None
    again = shop.deploy()

    assert done.code == 3
    assert "lock of shop in prod/shop was removed during this deploy" in done.err
    assert again.code == 1
    assert "prod has no namespace shop" in again.err


NAMESPACE, SECRETS = r"GET /api/v1/namespaces/shop(\?|$)", r"GET /api/v1/namespaces/shop/secrets\?"
WEB = r"(GET|PATCH) /apis/apps/v1/namespaces/shop/deployments/web"
MALFORMED: dict[str, list[object]] = {
    NAMESPACE: [[], "no JSON", {"metadata": []}, {"metadata": {"uid": 7}}, {"metadata": None}, {"kind": 1}],
    SECRETS: [
        {"items": 1},
        {"items": {"a": 1}},
        {"items": [None]},
        {"items": [{}]},
        {"items": [{"metadata": 1}]},
        {"items": [{"metadata": {"name": 1}}]},
        {"items": [{"metadata": {"name": "boltseal.shop.1"}, "data": {"release": 1}}]},
        {"items": [{"kind": "Secret", "metadata": {"name": "boltseal.shop.1"}, "data": 1}]},
        {"items": [{"metadata": {"name": "boltseal.shop.1"}, "data": {"release": "eA=="}}]},
    ],
}


def test_a_malformed_answer_is_one_clear_line(shop: KubeShop) -> None:
    """An answer of another shape is neither an internal error nor a refusal: exit code 3 and one line."""
    found = []
    for pattern, answers in MALFORMED.items():
        for answered in answers:
            shop.api.faults[:] = [Fault(pattern, answered=answered)]
            done = shop.run("release", "ls", "--kube", "prod", "-p", "shop")
            found.append((answered, done.code, len(done.err.splitlines()), "internal error" in done.err))

    assert [each for each in found if each[1:] != (3, 1, False)] == []


@pytest.mark.parametrize("metadata", [1, {"name": "web", "managedFields": [1]}])
def test_a_malformed_object_does_not_make_a_release_go_back(shop: KubeShop, metadata: object) -> None:
    """What the API server returned is doubt: nothing is applied by force."""
    shop.write("1.0")
    answered = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    shop.api.faults.append(Fault(WEB, answered=answered))
    done = shop.deploy()

    assert done.code == 3, (done.out, done.err)
    assert "internal error" not in done.err
    assert not [each for each in shop.api.asked if each.startswith("PATCH") and "force=true" in each]


PODS: list[object] = [1, {"items": [1]}, {"items": [{"status": {"containerStatuses": [{"state": {"waiting": 1}}]}}]}]


@pytest.mark.parametrize("pods", PODS)
def test_malformed_pods_do_not_hide_why_a_release_failed(shop: KubeShop, pods: object) -> None:
    """The reason of a failed rollout is printed with "could not be read"."""
    shop.write("2.0")
    shop.api.controllers.ill.add("2.0")
    shop.api.faults.append(Fault(r"GET /api/v1/namespaces/shop/pods\?", answered=pods))
    done = shop.deploy(wait="2s")

    assert done.code == 1, done.err
    assert "its pods could not be read: the cluster" in done.out + done.err


def test_another_content_of_a_known_release_is_not_taken_from_the_cluster(shop: KubeShop) -> None:
    """A person who may write Secrets of the namespace does not get manifests applied with the rights of the deployer."""
    shop.write("1.0")
    assert shop.deploy().code == 0
    shop.write("2.0")
    assert shop.deploy().code == 0
    secret = shop.api.get("Secret", "boltseal.shop.1")
    assert secret is not None
    stored = parse_stored(gzip.decompress(base64.b64decode(secret["data"]["release"])))
    assert stored.contents is not None
    contents = replace(stored.contents, compose=stored.contents.compose.replace(b"web:1.0", b"web:6.6"))
    forged = msgspec.structs.replace(stored, revision=stored.revision + 1, contents=contents)
    secret["data"]["release"] = base64.b64encode(gzip.compress(format_stored(forged))).decode()
    shop.api.put("v1", "Secret", "shop", "boltseal.shop.1", secret)
    done = shop.run("rollback", "--kube", "prod", "-p", "shop")

    assert done.code == 3, done.err
    assert "Secret boltseal.shop.1 in prod/shop has other manifests than release 1 on this machine" in done.err
    assert shop.running() == "2.0"


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("boltseal.shop.9", 2, 'has release 2 of "shop" (expected release 9 of "shop")'),
        ("boltseal.shop.02", 2, 'has release 2 of "shop" (expected no release)'),
        ("boltseal.shop.9", None, "Secret boltseal.shop.9 in prod/shop: "),
    ],
)
def test_a_secret_that_is_not_the_release_of_its_name_is_refused(
    shop: KubeShop, name: str, number: int | None, message: str
) -> None:
    """A renamed or emptied copy of a release is neither left out nor taken; a rollback could go back to another release."""
    shop.write("1.0")
    assert shop.deploy().code == 0
    shop.write("2.0")
    assert shop.deploy().code == 0
    secret = shop.api.get("Secret", f"boltseal.shop.{number or 2}")
    assert secret is not None
    data = secret["data"] if number else {}
    shop.api.put(
        "v1", "Secret", "shop", name, {**secret, "data": data, "metadata": {"labels": secret["metadata"]["labels"]}}
    )
    listed = shop.run("release", "ls", "--kube", "prod", "-p", "shop")
    back = shop.run("rollback", "--kube", "prod", "-p", "shop")

    assert (listed.code, back.code) == (3, 3)
    assert message in listed.err
    assert message in back.err
    assert shop.running() == "2.0"


@pytest.mark.parametrize("metadata", [{"uid": {}}, {}])
def test_an_object_without_a_valid_uid_does_not_count_as_deleted(shop: KubeShop, metadata: dict[str, object]) -> None:
    """A malformed answer about an object that is to be removed is "not removed", with the reason; the next release removes it."""
    shop.write("1.0", config_map("old", a="1"))
    shop.deploy()
    shop.write("2.0")
    answered = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "old", "namespace": "shop"} | metadata}
    shop.api.faults.append(Fault(r"GET /api/v1/namespaces/shop/configmaps/old", answered=answered, after=1))
    done = shop.deploy()
    shop.api.faults.clear()
    shop.write("3.0")
    again = shop.deploy()

    assert (done.code, again.code) == (0, 0), done.err
    assert "not removed: the cluster returned an object" in done.err
    assert "UID" in done.err
    assert shop.api.names("ConfigMap") == []
