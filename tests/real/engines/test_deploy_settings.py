"""Settings in files go back with a release, and a rollback is respected, on real engines with Docker Compose."""

from __future__ import annotations

import stat

import pytest

from tests.real.compose_project import HEALTHY, ComposeProject

pytestmark = pytest.mark.real


def settings(shop: ComposeProject, value: str, tag: str = "1.0.0") -> None:
    """Write a project with an environment file, a secret and a mounted file that have this value."""
    web = {
        "image": shop.image(tag),
        "healthcheck": HEALTHY,
        "env_file": ["app.env"],
        "secrets": ["token"],
        "volumes": ["./app.conf:/app.conf:ro", "./data:/data"],
    }
    shop.write({"web": web}, secrets={"token": {"file": "./token.txt"}})
    (shop.root / "data").mkdir(exist_ok=True)
    (shop.root / "app.env").write_text(f"PASSWORD={value}\n")
    (shop.root / "token.txt").write_text(value)
    (shop.root / "app.conf").write_text(value)


def environment(shop: ComposeProject) -> str:
    """Return the value that the container's environment has."""
    variables = dict(each.split("=", 1) for each in shop.containers()["web"]["Config"]["Env"])
    return str(variables["PASSWORD"])


def test_changed_settings_go_back_and_stay_back(shop: ComposeProject) -> None:
    """After a rollback the next deploy stops and names the files that differ; --restore-files restores them, --anyway deploys."""
    shop.publish("1.0.0")
    settings(shop, "good-value")
    first = shop.deployed()
    settings(shop, "bad-value")
    shop.deployed()
    back = shop.run("rollback")
    stopped = shop.run("deploy")
    after_stop = environment(shop)
    restored = shop.run("rollback", "3", "--restore-files")
    files = [(shop.root / name).read_text() for name in ("app.env", "token.txt", "app.conf")]
    modes = [stat.S_IMODE((shop.root / name).stat().st_mode) for name in ("app.env", "token.txt")]
    again = shop.run("deploy")
    settings(shop, "bad-value")
    anyway = shop.run("deploy", "--anyway")

    assert "not part of the release: data: a container can write it" in first.err
    assert back.code == 0, back.err
    assert stopped.code == 1
    assert "these files differ from what runs: app.conf, app.env, token.txt." in " ".join(stopped.err.split())
    assert after_stop == "good-value"
    assert restored.code == 0, restored.err
    assert files == ["PASSWORD=good-value\n", "good-value", "good-value"]
    assert modes == [0o600, 0o644]
    assert "runs already" in again.out
    assert anyway.code == 0, anyway.err
    assert environment(shop) == "bad-value"
    for each in (first, back, stopped, restored, again, anyway):
        assert "-value" not in each.out + each.err


def test_a_rollback_is_held_until_a_person_ends_the_hold(shop: ComposeProject) -> None:
    """What a rollback took back is neither updated, nor locked, nor deployed, until `release hold --end`."""
    shop.publish("edge", "good")
    shop.write({"web": {"image": shop.image("edge"), "healthcheck": HEALTHY}})
    shop.deployed()
    shop.publish("edge", "bad")
    shop.deployed()
    back, twice = shop.run("rollback"), shop.run("rollback")
    update = shop.run("update")
    deploy, anyway = shop.run("deploy"), shop.run("deploy", "--anyway")
    restored = shop.run("rollback", "3", "--restore-files")
    lock = shop.run("lock", "--update")
    still = shop.run("deploy", "--update")
    held = shop.run("release", "hold")
    words = shop.words()
    ended = shop.run("release", "hold", "--end")
    after = shop.run("deploy", "--update")

    assert back.code == 0, back.err
    assert twice.code == 1
    assert "is a rollback already" in twice.err
    assert "held since release 3 went back" in " ".join(update.out.split())
    assert (deploy.code, anyway.code) == (1, 1)
    assert "release hold --end" in anyway.err
    assert restored.code == 0, restored.err
    assert "is not updated: held since release 3" in lock.err
    assert "runs already" in still.out
    assert (held.code, ended.code) == (1, 0)
    assert "boltseal release hold --end" in held.err
    assert words == {"web": "good"}
    assert after.code == 0, after.err
    assert shop.words() == {"web": "bad"}
