"""`boltseal deploy --kube` with real kubectl: deployed, deployed again, broken, gone back, removed, held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kube.shop import MANAGER, KubeShop, config_map, deployment, digest_of, kube_shop, service

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_a_release_is_applied_by_digest_and_waited_for(shop: KubeShop) -> None:
    """Every image is applied by its digest in the lock, the rollout is waited for, and the release is on the cluster."""
    shop.api.controllers.delay_s = 2
    shop.write("1.0", job="0.9")
    done = shop.deploy("--json", wait="20s")

    assert done.code == 0, done.err
    assert [(each["status"], each.get("service"), each.get("digest")) for each in done.json["results"]] == [
        ("healthy", None, None),
        ("completed", "job/migrate/run", str(digest_of("0.9"))),
        ("healthy", "deployment/web/app", str(digest_of("1.0"))),
    ]
    assert shop.running() == "1.0"
    assert shop.api.names("Secret") == ["boltseal.shop.1", "boltseal.shop.key"]


def test_the_same_manifests_change_nothing(shop: KubeShop) -> None:
    """A second deploy of the same manifests makes no release, and no write but the lock."""
    shop.write("1.0", job="1.0")
    shop.deploy()
    begin = len(shop.api.asked)
    done = shop.deploy()

    assert (done.code, done.out.splitlines()[0]) == (
        0,
        "release 1 of shop runs already: nothing was pulled, started or stopped",
    )
    writes = [each for each in shop.api.asked[begin:] if not each.startswith("GET") and "dryRun=All" not in each]
    assert [each.split("/")[-1].partition("?")[0] for each in writes] == ["secrets", "boltseal.shop.lock"]
    assert shop.api.controllers.jobs == ["migrate-r1"]


def test_what_was_changed_by_hand_is_deployed_again(shop: KubeShop) -> None:
    """An object that was deleted by hand is not taken for one that runs."""
    shop.write("1.0")
    shop.deploy()
    shop.api.remove(("v1", "Service", "shop", "web"))
    done = shop.deploy()

    assert done.code == 0
    assert "release 2 of shop runs" in done.out
    assert shop.api.names("Service") == ["web"]


def test_the_dry_run_is_the_servers_and_changes_nothing(shop: KubeShop) -> None:
    """`--dry-run` shows what the API server would make of the manifests, hides values of Secrets, and changes nothing."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "stringData": {"word": "hunter2"}}
    shop.write("1.0", secret, config_map("old", a="1"))
    shop.deploy()
    other = {**secret, "stringData": {"word": "correct horse"}}
    shop.write("2.0", other)
    before, begin = shop.running(), len(shop.api.asked)
    done = shop.deploy("--dry-run")

    assert done.code == 0, done.err
    assert f'-            "image": "registry.example.com/shop/web:1.0@{digest_of("1.0")}"' in done.out
    assert f'+            "image": "registry.example.com/shop/web:2.0@{digest_of("2.0")}"' in done.out
    assert "configmap/old in shop: removed (no manifest has it any more)" in done.out
    assert "prod: 3 of 4 objects would change; nothing was changed" in done.out
    assert '-    "word": "*** (before)"' in done.out
    assert "hunter2" not in done.out + done.err
    assert "horse" not in done.out + done.err
    assert shop.running() == before
    assert all(each.startswith("GET") or "dryRun=All" in each for each in shop.api.asked[begin:])


def test_a_broken_release_goes_back(shop: KubeShop) -> None:
    """If a workload fails, the former manifests are applied again, what is new is removed, and no job runs a second time."""
    shop.write("1.0", job="1.0")
    shop.deploy()
    shop.api.controllers.ill.add(":2.0")
    shop.write("2.0", config_map("new", a="1"), job="1.0")
    done = shop.deploy(wait="2s")

    assert done.code == 1
    assert "release 2 of shop failed; release 1 runs again" in done.out
    assert "pod web-5d9c7b-x2x4z, container app: CrashLoopBackOff" in done.err
    assert "deployment/web | no database" in done.err
    assert shop.running() == "1.0"
    assert (shop.api.names("ConfigMap"), shop.api.names("Job")) == ([], ["migrate-r1"])
    assert shop.api.controllers.jobs == ["migrate-r1", "migrate-r2"]


def test_a_failed_job_goes_back(shop: KubeShop) -> None:
    """A job that fails ends the release at once."""
    shop.write("1.0", job="1.0")
    shop.deploy()
    shop.api.controllers.ill.add(":bad")
    shop.write("2.0", job="bad")
    done = shop.deploy(wait="60s")

    assert done.code == 1
    assert "job/migrate: the job failed (BackoffLimitExceeded" in done.err
    assert shop.running() == "1.0"


def test_only_what_a_release_created_is_removed(shop: KubeShop) -> None:
    """An object that was there before, that is another one now, or that another manager applies, is never removed."""
    for name in ("mine", "theirs", "shared", "again"):
        if name == "theirs":
            shop.api.put("v1", "ConfigMap", "shop", name, config_map(name, a="1"))
    made = [config_map(name, a="1") for name in ("mine", "theirs", "shared", "again")]
    shop.write("1.0", *made)
    assert shop.deploy().code == 0
    shared = shop.api.get("ConfigMap", "shared")
    assert shared is not None
    shared["metadata"]["managedFields"].append(
        {"manager": "argocd-controller", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:data": {"f:b": {}}}}
    )
    shop.api.put("v1", "ConfigMap", "shop", "shared", shared)
    shop.api.remove(("v1", "ConfigMap", "shop", "again"))
    shop.api.put("v1", "ConfigMap", "shop", "again", config_map("again", a="2"))
    shop.write("2.0")
    done = shop.deploy()

    assert done.code == 0
    assert shop.api.names("ConfigMap") == ["again", "shared", "theirs"]
    assert "configmap/shared in shop: not removed, since argocd-controller applies it as well" in done.err


def test_data_is_never_removed(shop: KubeShop) -> None:
    """A PersistentVolumeClaim that the manifests no longer have stays, with a notice."""
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {}}
    shop.write("1.0", claim)
    shop.deploy()
    shop.write("2.0")
    done = shop.deploy()

    assert done.code == 0
    assert shop.api.names("PersistentVolumeClaim") == ["data"]
    assert "persistentvolumeclaim/data in shop: not removed, since data would be lost with it" in done.err


def test_a_conflict_is_refused_before_anything_is_applied(shop: KubeShop) -> None:
    """A field that another manager has is not overwritten, and nothing else is applied either; --take-over takes it."""
    shop.write("1.0", replicas=2)
    shop.deploy()
    live = shop.api.get("Deployment", "web")
    assert live is not None
    live["spec"]["replicas"] = 7
    for each in live["metadata"]["managedFields"]:
        each["fieldsV1"]["f:spec"].pop("f:replicas")
    scaled: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
    live["metadata"]["managedFields"].append(
        {"manager": "autoscaler", "operation": "Update", "apiVersion": "apps/v1", "fieldsV1": scaled}
    )
    shop.api.put("apps/v1", "Deployment", "shop", "web", live)
    shop.write("2.0", config_map("new", a="1"), replicas=2)
    refused = shop.deploy()

    assert refused.code == 1
    assert 'Apply failed with 1 conflict: conflict with "autoscaler" using apps/v1: .spec.replicas' in refused.err
    assert "--take-over" in refused.err
    assert (shop.running(), shop.api.names("ConfigMap")) == ("1.0", [])
    assert shop.deploy("--take-over").code == 0
    assert (shop.running(), (shop.api.get("Deployment", "web") or {})["spec"]["replicas"]) == ("2.0", 2)


def test_a_rollback_and_its_hold(shop: KubeShop) -> None:
    """A rollback applies the former manifests without jobs, and holds what it went back from until a person ends that."""
    shop.write("1.0", job="1.0")
    shop.deploy()
    shop.write("2.0", job="2.0")
    shop.deploy()
    back = shop.run("rollback", "--kube", "prod", "-p", "shop")
    again = shop.run("rollback", "--kube", "prod", "-p", "shop")
    held = shop.run("release", "hold", "--kube", "prod", "-p", "shop")
    refused = shop.deploy()
    ended = shop.run("release", "hold", "--end", "--kube", "prod", "-p", "shop")
    taken = shop.deploy()

    assert (back.code, again.code, held.code, refused.code, ended.code, taken.code) == (0, 1, 1, 1, 0, 0)
    assert "release 3 of shop runs, as release 1 did" in back.out
    assert "is a rollback already" in again.err
    assert "held since release 3 went back from release 2" in refused.err
    assert shop.running() == "2.0"
    assert shop.api.controllers.jobs == ["migrate-r1", "migrate-r2", "migrate-r4"]
    assert [(each["ref"], each["status"], each["runs"]) for each in shop.releases()] == [
        ("shop/1", "healthy", False),
        ("shop/2", "healthy", False),
        ("shop/3", "healthy", False),
        ("shop/4", "healthy", True),
    ]


def test_another_administrator_sees_and_restores_the_releases(shop: KubeShop, tmp_path: Path) -> None:
    """The releases are on the cluster: from another machine they are listed, compared and gone back to."""
    shop.write("1.0", config_map("settings", level="low"))
    shop.deploy()
    shop.write("2.0", config_map("settings", level="high"))
    shop.deploy()
    other = tmp_path / "other"
    shop.environment |= {"BOLTSEAL_STATE": str(other), "BOLTSEAL_ENGINES": str(other / "engines")}
    listed = shop.releases()
    shown = shop.run("release", "show", "--kube", "prod", "-p", "shop")
    differs = shop.run("release", "diff", "1", "2", "--kube", "prod", "-p", "shop", "--json")
    back = shop.run("rollback", "--kube", "prod", "-p", "shop")

    assert [each["ref"] for each in listed] == ["shop/1", "shop/2"]
    assert "release   shop/2, running" in shown.out
    assert {(each["ref"], each["status"]) for each in differs.json["results"]} == {
        ("deployment/web/app", "image"),
        ("deployment/web/app", "digest"),
        ("configmap/settings in shop", "data.level"),
        ("shop", "file app.yaml"),
    }
    assert (back.code, shop.running()) == (0, "1.0")


def test_several_clusters_stop_at_the_first_that_fails(tmp_path: Path) -> None:
    """Clusters are deployed to in order; after one that fails, no further one is begun."""
    with kube_shop(tmp_path, "a", "b", "c") as shop:
        everywhere = ("--kube", "a", "--kube", "b", "--kube", "c", "--json")
        shop.write("1.0")
        first = shop.deploy(*everywhere, "--parallel", "8")
        shop.clusters["b"].controllers.ill.add(":2.0")
        shop.write("2.0")
        done = shop.deploy(*everywhere, wait="2s")
        running = {name: shop.running(api) for name, api in shop.clusters.items()}

    assert (first.code, done.code) == (0, 1), first.err
    assert running == {"a": "2.0", "b": "1.0", "c": "1.0"}
    assert [(each["cluster"], each["status"]) for each in done.json["results"] if "service" not in each] == [
        ("a", "healthy"),
        ("b", "put-back"),
        ("c", "not-begun"),
    ]


def test_kinds_and_namespaces_of_the_same_release(shop: KubeShop) -> None:
    """What others need is applied first: a namespace and its objects, and a kind and its resource, come in one release."""
    names = {"plural": "backups", "kind": "Backup"}
    spec = {"group": "example.com", "names": names, "scope": "Namespaced", "versions": [{"name": "v1"}]}
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "backups.example.com"},
        "spec": spec,
    }
    backup = {"apiVersion": "example.com/v1", "kind": "Backup", "metadata": {"name": "daily"}, "spec": {"at": "03:00"}}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tools"}}
    inside = config_map("settings", a="1")
    inside["metadata"]["namespace"] = "tools"
    shop.api.controllers.delay_s = 1
    shop.write("1.0", backup, inside, crd, space)
    shown = shop.deploy("--dry-run")
    done = shop.deploy(wait="20s")

    assert "backup/daily in shop: not-checked (could not be checked: this release creates" in shown.out
    assert done.code == 0, done.err
    assert (shop.api.names("Backup"), shop.api.names("ConfigMap", "tools")) == (["daily"], ["settings"])


def test_kustomize_and_the_output_of_helm_template(shop: KubeShop) -> None:
    """A kustomization is rendered by kubectl; standard input is taken as manifests."""
    shop.write("1.0")
    (shop.folder / "kustomization.yaml").write_text("resources: [app.yaml]\nnamePrefix: eu-\n")
    rendered = shop.run("deploy", "--kube", "prod", "--wait", "60s")
    shop.lock("1.0", "1.1")
    typed = f"# Source: shop/templates/web.yaml\n{deployment('piped', 'registry.example.com/shop/web:1.1')}".replace(
        "'", '"'
    )
    piped = shop.run("deploy", "--kube", "prod", "-f", "-", "-p", "piped", "--wait", "60s", typed=typed)

    assert (rendered.code, piped.code) == (0, 0), rendered.err + piped.err
    assert shop.api.names("Deployment") == ["eu-web", "piped"]


def test_an_image_without_a_digest_is_refused(shop: KubeShop) -> None:
    """Nothing is applied, and no cluster is asked, if an image is not locked."""
    shop.write("1.0")
    shop.lock("0.9")
    done = shop.deploy()

    assert done.code == 2
    assert "registry.example.com/shop/web:1.0: is not in boltseal.lock. Nothing was applied" in done.err
    assert shop.api.asked == []


def test_fields_that_the_manifests_no_longer_have_are_removed(shop: KubeShop) -> None:
    """Server-side apply removes what a former release set and this one does not, and leaves what others set."""
    one = service("web")
    one["metadata"]["annotations"] = {"a": "1"}
    shop.write("1.0")
    (shop.folder / "app.yaml").write_text(
        (shop.folder / "app.yaml").read_text().replace('"labels": {', '"annotations": {"a": "1"}, "labels": {', 1)
    )
    shop.deploy()
    live = shop.api.get("Deployment", "web")
    assert live is not None
    live["metadata"]["annotations"]["b"] = "theirs"
    shop.api.put("apps/v1", "Deployment", "shop", "web", live)
    shop.write("1.0")
    shop.deploy()

    assert (shop.api.get("Deployment", "web") or {})["metadata"]["annotations"] == {"b": "theirs"}
    assert {each["manager"] for each in (shop.api.get("Service", "web") or {})["metadata"]["managedFields"]} == {
        MANAGER
    }
