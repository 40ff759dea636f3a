"""The guide about Kubernetes, as a reader follows it: manifests, deployed, broken, gone back."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.docs.pages import ROOT
from tests.kube.shop import KubeShop

pytestmark = [pytest.mark.real, pytest.mark.slow]
_PAGE = (ROOT / "docs/guides/kubernetes.md").read_text(encoding="utf-8")
_BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL)


def _commands() -> list[list[str]]:
    """Return the words of each command of the page, in its order."""
    blocks = [text for language, text in _BLOCKS if not language]
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


def _manifest() -> str:
    return next(text for language, text in _BLOCKS if language == "yaml" and text.startswith("apiVersion"))


def _version(shop: KubeShop, version: str) -> None:
    """Write the page's manifests with a version, and the lock that `boltseal lock` would write: there is no such registry."""
    (shop.folder / "app.yaml").write_text(_manifest().replace(":1.0", f":{version}"))
    shop.lock(version)


def test_the_guide_can_be_followed(shop: KubeShop) -> None:
    """Each command of the page ends as the page says, and a broken version is gone back from."""
    lock, *deploys = [each for each in _commands() if each[1] in ("lock", "deploy")]
    shown, deployed = deploys
    others = [each for each in _commands() if each[1] not in ("lock", "deploy")]
    assert lock == ["boltseal", "lock"]
    _version(shop, "1.0")
    assert shop.run(*shown[1:]).code == 0
    assert shop.run(*deployed[1:]).code == 0
    _version(shop, "2.0")
    assert shop.run(*deployed[1:]).code == 0
    shop.api.controllers.ill.add(":3.0")
    _version(shop, "3.0")
    broken = shop.run(*deployed[1:], "--wait", "2s")
    assert (broken.code, shop.running()) == (1, "2.0")
    codes = {tuple(each[1:3]): shop.run(*each[1:]).code for each in others if "--end" not in each}
    ended = shop.run(*next(each for each in others if "--end" in each)[1:])

    assert codes == {
        ("release", "ls"): 0,
        ("rollback", "--kube"): 0,
        ("release", "diff"): 1,
        ("release", "hold"): 1,
        ("verify", "--running"): 0,
    }
    assert ended.code == 0
    assert shop.running() == "1.0"
    assert shop.api.controllers.jobs == ["migrate-r1", "migrate-r2", "migrate-r3"]
