"""Logins in the files of other tools: which file takes precedence, and the error for each damaged file."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from boltseal.client.certificates import find_certificates
from boltseal.client.config_files import FileUnusable
from boltseal.client.credentials import Credentials, CredentialsInvalid, CredentialStore, HelperFailed
from boltseal.client.registries_conf import RegistriesConf
from boltseal.config import RegistriesConfPaths
from boltseal.errors import ExitCode, exit_code

OTHER_UID = 65534


def auths(**logins: str) -> str:
    return json.dumps(
        {"auths": {key: {"auth": base64.b64encode(login.encode()).decode()} for key, login in logins.items()}}
    )


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


async def test_a_login_for_a_path_in_a_later_file_is_not_used(tmp_path: Path) -> None:
    """As in skopeo, the first file with a login for the registry decides, and within one file the longest path."""
    first = written(tmp_path / "first", auths(**{"a.test": "a:1", "b.test/shop": "b:1"}))
    second = written(tmp_path / "second", auths(**{"a.test/shop": "c:1", "b.test/shop/app": "d:1", "b.test": "e:1"}))
    store = CredentialStore([first, second])

    assert await store.find("a.test", "shop/app") == Credentials("a", "1")
    assert await store.find("b.test", "shop/app") == Credentials("b", "1")
    assert await store.find("b.test", "other") == Credentials("e", "1")
    assert await store.find("b.test") == Credentials("e", "1")


async def test_an_entry_without_a_login_is_skipped(tmp_path: Path) -> None:
    """An entry without a login, as Docker writes beside a credential helper, is skipped."""
    first = written(tmp_path / "first", '{"auths": {"a.test": {}, "b.test": {"auth": ""}}}')
    second = written(tmp_path / "second", auths(**{"a.test": "a:1"}))
    store = CredentialStore([first, second])

    assert await store.find("a.test") == Credentials("a", "1")
    assert await store.find("b.test") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe{}",
        b'{"auths": []}',
        b'{"auths": {"a.test": "x"}}',
        b'{"auths": {"a.test": {"auth": 5}}}',
        b'{"auths": {"a.test": {"auth": "%%"}}}',
        b'{"auths": {"a.test": {"auth": "/w=="}}}',
        b'{"credHelpers": {"a.test": 5}}',
        b'{"credsStore": ["x"]}',
        b'{"auths":' + b"[" * 100_000,
    ],
)
async def test_a_damaged_file_is_named_and_the_check_is_not_made(tmp_path: Path, content: bytes) -> None:
    """A damaged credential file is named and ends the check; the message has no part of a secret."""
    file = tmp_path / "auth.json"
    file.write_bytes(content)
    with pytest.raises(CredentialsInvalid) as refused:
        await CredentialStore([file]).find("a.test")

    assert refused.value.message.startswith(f"{file}")
    assert exit_code(refused.value) is ExitCode.UNKNOWN


async def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    """A huge credential file is not read."""
    file = tmp_path / "auth.json"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(FileUnusable, match=r"auth\.json can't be read: it has more than 4194304 bytes"):
        await CredentialStore([file]).find("a.test")


async def test_the_helpers_of_registries_conf_are_asked_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helpers in registries.conf are tried in order; Docker's file is read too, and a missing helper is an error."""
    helper = tmp_path / "docker-credential-known"
    helper.write_text(
        '#!/bin/sh\nread -r key\necho "$key" >>"${0%/*}/asked"\n'
        '[ "$key" = a.test ] && echo "{\\"Username\\": \\"helped\\", \\"Secret\\": \\"s\\"}" && exit\n'
        "echo credentials not found in native keychain; exit 1\n"
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    file = written(tmp_path / "auth.json", auths(**{"a.test": "filed:1", "b.test": "filed:2"}))

    def store(*helpers: str) -> CredentialStore:
        conf = written(tmp_path / "-".join(helpers), f"credential-helpers = {json.dumps(helpers)}\n")
        return CredentialStore([file], (), RegistriesConf(RegistriesConfPaths(conf, conf, conf)))

    first, last = store("known", "containers-auth.json"), store("containers-auth.json", "known")

    assert await first.find("a.test", "shop/app") == Credentials("helped", "s")
    assert await first.find("a.test", "shop/other") == Credentials("helped", "s")
    assert await first.find("b.test") == Credentials("filed", "2")
    assert await last.find("a.test") == Credentials("filed", "1")
    assert await store("known").find("b.test") == Credentials("filed", "2")
    assert await store("containers-auth.json", "absent").find("b.test") == Credentials("filed", "2")
    assert (tmp_path / "asked").read_text().split() == ["a.test", "b.test", "b.test"]
    with pytest.raises(HelperFailed, match="docker-credential-absent can't be run"):
        await store("absent", "containers-auth.json").find("b.test")


@contextmanager
def folder_of_all() -> Iterator[Path]:
    """Return a folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="boltseal-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder


async def login_for_other_user(store: CredentialStore) -> Credentials | None:
    os.seteuid(OTHER_UID)
    try:
        return await store.find("a.test")
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_file_of_another_user_is_named() -> None:
    """Under `sudo -u`, XDG_RUNTIME_DIR may be another user's; an unreadable credential file there is named."""
    with folder_of_all() as folder:
        file = written(folder / "auth.json", auths(**{"a.test": "a:1"}))
        file.chmod(0o600)
        with pytest.raises(FileUnusable, match=r"auth\.json can't be read: Permission denied"):
            await login_for_other_user(CredentialStore([file]))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_certificates_that_the_user_may_not_enter_is_skipped_and_reported() -> None:
    """As in skopeo, a certificate folder without permission is skipped with a notice, and an unreadable file is an
    error."""
    with folder_of_all() as folder:
        for name in ("closed", "open"):
            (folder / name / "a.test").mkdir(parents=True)
        (folder / "closed/a.test/client.key").touch()
        (folder / "open/a.test/ca.crt").touch(0o600)
        (folder / "closed").chmod(0o700)
        os.seteuid(OTHER_UID)
        try:
            skipped = find_certificates([folder / "closed"], "a.test")
            with pytest.raises(FileUnusable, match=r"open/a\.test/ca\.crt can't be read: Permission denied"):
                find_certificates([folder / "closed", folder / "open"], "a.test")
        finally:
            os.seteuid(0)

        assert skipped.empty
        assert skipped.advice().endswith(f"{folder}/closed/a.test was not searched: Permission denied")
