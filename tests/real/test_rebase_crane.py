"""`boltseal rebase` and `crane rebase` on the same images. crane is built from Debian's package of its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from tests.cli import program
from tests.images import OCI_MANIFEST, Document
from tests.real.registry import Registry
from tests.real.tools import run
from tests.tar_images import GLIBC, Files, app_on, base_of, image_of, push_document

pytestmark = [pytest.mark.real, pytest.mark.slow]

OLD = base_of({"usr/lib/tls.so": "tls 1"}, settings={"Env": ["TLS=1"], "User": "root"})
NEW = base_of({"usr/lib/tls.so": "tls 2"}, {"usr/lib/more": "m"}, settings={"Env": ["TLS=2"], "User": "node"})
OLDER_LIBC = base_of({"usr/lib/tls.so": "tls 2", "lib/libc.so.6": GLIBC.replace("2.36", "2.31")})


class Rebased:
    """An image that both tools rebased onto the same base. `codes`: whether crane succeeded, and boltseal's exit code."""

    def __init__(self, registry: Registry, name: str, crane: str, app: Document, new: Document) -> None:
        self.host = registry.host
        self.url = f"{registry.server.url}/v2/{name}"
        with httpx2.Client(base_url=registry.server.url, trust_env=False) as client:
            push_document(client, f"{name}/base", "latest", OLD)
            push_document(client, name, "1", app)
            push_document(client, f"{name}/base", "latest", new)
        base = f"{self.host}/{name}/base"
        image = f"{self.host}/{name}:1"
        words = ("--old_base", f"{base}@{OLD.digest}", "--new_base", f"{base}:latest", "--tag", f"{self.host}/{name}:2")
        by_crane = run(crane, "rebase", image, *words)
        ours = program.call("rebase", image, "--base", f"{base}@{OLD.digest}", "--onto", f"{base}:latest", "--tag", "3")
        self.codes = by_crane.ok, ours.code

    def manifest(self, tag: str) -> dict[str, Any]:
        answer = httpx2.get(f"{self.url}/manifests/{tag}", headers={"accept": OCI_MANIFEST}, trust_env=False)
        found: dict[str, Any] = answer.json()
        return found

    def config(self, tag: str) -> dict[str, Any]:
        digest = self.manifest(tag)["config"]["digest"]
        found: dict[str, Any] = httpx2.get(f"{self.url}/blobs/{digest}", trust_env=False).json()
        return found


def steps(config: Mapping[str, Any]) -> list[str]:
    return [step["created_by"] for step in config["history"]]


@pytest.mark.parametrize("layers", [[{"app/main": "1"}], [{"app/main": "1"}, {"app/.wh.main": ""}], []])
def test_layers_and_history_are_those_of_crane(
    registry: Registry, repository: str, crane: str, layers: list[Files]
) -> None:
    """boltseal and crane put the same layers, in the same order and with the same history, on the new base; crane finds ours valid."""
    both = Rebased(registry, repository, crane, app_on(OLD, *layers), NEW)

    assert both.codes == (True, 0)
    assert both.manifest("2")["layers"] == both.manifest("3")["layers"]
    assert both.config("2")["rootfs"] == both.config("3")["rootfs"]
    assert steps(both.config("2")) == steps(both.config("3"))
    assert both.manifest("2")["annotations"] == both.manifest("3")["annotations"]
    run(crane, "validate", "--remote", f"{both.host}/{repository}:3").checked()


def test_crane_keeps_the_old_bases_settings(registry: Registry, repository: str, crane: str) -> None:
    """crane keeps what the image inherited from its old base, and boltseal takes it from the new one."""
    both = Rebased(registry, repository, crane, app_on(OLD, {"app/main": "1"}), NEW)
    crane_settings, our_settings = (both.config(tag)["config"] for tag in ("2", "3"))

    assert (crane_settings["Env"], crane_settings["User"]) == (["TLS=1"], "root")
    assert (our_settings["Env"], our_settings["User"]) == (["TLS=2"], "node")


@pytest.mark.parametrize(
    ("app", "new"),
    [
        (app_on(OLD, {"usr/lib/tls.so": "mine"}), NEW),
        (app_on(OLD, {"usr/lib/.wh.tls.so": ""}), NEW),
        (app_on(OLD, {"app/main": "1"}), OLDER_LIBC),
        (image_of([*OLD.layers, {"a": "1"}], diff_ids=[f"sha256:{number:064}" for number in range(3)]), NEW),
    ],
    ids=["overwritten", "deleted", "libc", "forged"],
)
def test_crane_rebases_what_is_not_safe(
    registry: Registry, repository: str, crane: str, app: Document, new: Document
) -> None:
    """crane makes no checks of files, libraries and configs, and boltseal refuses."""
    both = Rebased(registry, repository, crane, app, new)

    assert both.codes == (True, 1)
