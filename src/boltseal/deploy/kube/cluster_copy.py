"""The releases of a project on its cluster, for all of its administrators, and the lock that admits one deploy at a time.

All are Secrets in the release's namespace, since manifests may contain secrets:

    boltseal.PROJECT.lock    who deploys, since when, by which command; created by POST, so that only one process has it
    boltseal.PROJECT.key     the key of the HMACs of environment values
    boltseal.PROJECT.N       release N as `release_file` writes it, compressed

The API replaces an object as a whole, so that no release is torn. A lock that a killed process of this machine left is removed; what
another machine left is removed by a person: `boltseal release unlock`.
"""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from boltseal.deploy.release_copy import HeldLock, LockOwner, is_stale
from boltseal.deploy.release_exchange import Exchange, exchanged
from boltseal.deploy.release_file import MAX_FILE_BYTES, StoredRelease, TornFile, format_stored, parse_stored
from boltseal.deploy.release_store import AnotherDeploys, ReleaseFolder
from boltseal.deploy.releases import ReleaseUnreadable
from boltseal.engines.cluster import Cluster, Json, ObjectExists, ObjectId, id_of, uid_of
from boltseal.errors import BoltsealError, quote

MAX_SECRET_BYTES: Final = 1_000_000
"""Of a Secret's data; the API server accepts 1 MiB."""
PROJECT_LABEL: Final = "boltseal.dev/project"
_TYPE: Final = "boltseal.dev/release"
_KEY: Final = "release"
_TRIES: Final = 3


class ClusterCopy:
    """Implements `release_store.ReleaseCopy` for one project in one namespace."""

    def __init__(
        self, cluster: Cluster, namespace: str, project: str, owner: LockOwner, notice: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._project = project
        self._owner = owner
        self._notice = notice
        self._held = ""

    def lock(self) -> None:
        """Exclude all other deploys of the project in the namespace. Raises: AnotherDeploys; errors of the cluster."""
        data = {key: value.encode() for key, value in self._owner.labels().items()}
        for _ in range(_TRIES):
            try:
                self._held = uid_of(self._cluster.create(self._folder(), self._secret("lock", data)))
                return
            except ObjectExists:
                held = self.held()
                if held is None:
                    continue
                if not is_stale(held.process, self._owner.process, local=False):
                    raise AnotherDeploys(
                        f"{self._project} is being deployed in {self._where()} by {held}; retry when it has ended. If that process "
                        f"is gone: `boltseal release unlock {self._options()}`"
                    ) from None
                self._notice(f"boltseal: removed the lock of {held}: that process has ended")
                self._cluster.delete(self._id("lock"), held.id)
        raise AnotherDeploys(f"{self._project} is being deployed by other processes again and again; retry later")

    def held(self) -> HeldLock | None:
        """Return who deploys the project now, None if it is not locked."""
        found = self._cluster.read(f"{self._folder()}/{self._name('lock')}")
        if found is None:
            return None
        return HeldLock.of(uid_of(found), {key: raw.decode("utf-8", "replace") for key, raw in _data(found).items()})

    def unlock(self) -> None:
        """Admit other deploys again. A failure is a notice: the next deploy finds the lock stale."""
        held, self._held = self._held, ""
        try:
            self._cluster.delete(self._id("lock"), held)
        except BoltsealError as error:
            self._notice(f"boltseal: the lock of {self._project} in {self._where()} was not removed: {error.message}")

    def remove_lock(self, held: HeldLock) -> None:
        """Remove another process's lock."""
        self._cluster.delete(self._id("lock"), held.id)

    def exchange(self, folder: ReleaseFolder) -> None:
        """Bring folder and cluster to the same state: releases, and the key of environment values."""
        secrets = self._secrets()
        found = self._exchanged(folder, secrets)
        for each in found.to_folder:
            folder.put(each, copy=False)
        for each in found.to_engine:
            self._put(each, known=secrets)
        key = _data(secrets.get(self._name("key"), {})).get("key")
        if key is not None:
            folder.key(key)
        else:
            self._write("key", {"key": folder.key()}, secrets)

    def put(self, stored: StoredRelease) -> None:
        """Write one release to the cluster. Raises: AnotherDeploys: the lock was removed, or another process has it."""
        try:
            held = self.held()
            if held is None or held.id != self._held:
                raise AnotherDeploys(
                    f"the lock of {self._project} in {self._where()} was removed during this deploy"
                    + ("" if held is None else f", and {held} has it now")
                    + f"; release {stored.release.number} is unfinished, see `boltseal release ls {self._options()}`"
                )
            self._put(stored, known=None)
        except AnotherDeploys:
            raise
        except BoltsealError as error:
            self._only_here(stored, error.message)

    def copy_to(self, folder: ReleaseFolder) -> None:
        """Copy the cluster's releases into a folder, to read them."""
        for each in self._exchanged(folder, self._secrets()).to_folder:
            folder.put(each, copy=False)

    def _exchanged(self, folder: ReleaseFolder, secrets: Mapping[str, Json]) -> Exchange:
        """Return what each side lacks. Raises: ReleaseUnreadable: the cluster has other manifests of a release that is here.

        Nothing authenticates a Secret, and a rollback applies its manifests with the rights of this user. A release's contents are
        written once, so another content of one that is here was not written by boltseal.
        """
        ours = folder.stored()
        found = exchanged(ours, self._releases(secrets), authoritative=False)
        known = {(each.release.number, each.release.started_us, each.release.who): each.contents for each in ours}
        for each in found.to_folder:
            release = each.release
            contents = known.get((release.number, release.started_us, release.who))
            if None not in (contents, each.contents) and contents != each.contents:
                raise ReleaseUnreadable(
                    f"Secret {self._name(str(release.number))} in {self._where()} has other manifests than release {release.number} on "
                    "this machine, and was changed by another program; nothing was applied; find out who changed it, and delete it"
                )
        return found

    def _put(self, stored: StoredRelease, known: Mapping[str, Json] | None) -> None:
        raw = gzip.compress(format_stored(stored), mtime=0)
        if len(raw) > MAX_SECRET_BYTES:
            self._only_here(
                stored, f"it is too large for a Secret (got {len(raw)} bytes, expected at most {MAX_SECRET_BYTES})"
            )
            return
        self._write(str(stored.release.number), {_KEY: raw}, known)

    def _only_here(self, stored: StoredRelease, why: str) -> None:
        self._notice(
            f"boltseal: release {stored.release.number} of {self._project} is only on this machine so far: {why}"
        )

    def _write(self, name: str, data: Mapping[str, bytes], known: Mapping[str, Json] | None) -> None:
        secret, path = self._secret(name, data), f"{self._folder()}/{self._name(name)}"
        there = self._name(name) in known if known is not None else self._cluster.read(path) is not None
        if there:
            self._cluster.replace(path, secret)
        else:
            self._cluster.create(self._folder(), secret)

    def _secrets(self) -> dict[str, Json]:
        listed = self._cluster.read(f"{self._folder()}?labelSelector={PROJECT_LABEL}%3D{self._project}") or {}
        return {id_of(each).name: each for each in listed.get("items") or ()}

    def _releases(self, secrets: Mapping[str, Json]) -> tuple[StoredRelease, ...]:
        """Return the releases in these Secrets.

        Raises: ReleaseUnreadable: one of them is not what boltseal wrote, or its name is that of another release.
        """
        found = []
        for name, secret in secrets.items():
            raw, number = _data(secret).get(_KEY), self._number(name)
            if raw is None and number is None:
                continue
            try:
                stored = parse_stored(_uncompressed(raw or b""))
            except (ReleaseUnreadable, TornFile) as error:
                raise ReleaseUnreadable(f"Secret {name} in {self._where()}: {error.message}") from error
            release = stored.release
            if name != self._name(str(release.number)) or release.project != self._project:
                raise ReleaseUnreadable(
                    f"Secret {name} in {self._where()} has release {release.number} of {quote(release.project)} (expected "
                    f"{'no release' if number is None else f'release {number} of {quote(self._project)}'}), and was written by another "
                    "program; nothing was applied; find out who wrote it, and delete it"
                )
            found.append(stored)
        return tuple(found)

    def _number(self, name: str) -> int | None:
        """Return the number of the release in the name of a Secret; None if it is not the name of a release."""
        number = name.removeprefix(self._name(""))
        return int(number) if number != name and re.fullmatch("[1-9][0-9]{0,8}", number) else None

    def _secret(self, name: str, data: Mapping[str, bytes]) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": _TYPE,
            "metadata": {
                "name": self._name(name),
                "namespace": self._namespace,
                "labels": {PROJECT_LABEL: self._project, "app.kubernetes.io/managed-by": "boltseal"},
            },
            "data": {key: base64.b64encode(raw).decode() for key, raw in data.items()},
        }

    def _name(self, name: str) -> str:
        return f"boltseal.{self._project}.{name}"

    def _folder(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/secrets"

    def _id(self, name: str) -> ObjectId:
        return ObjectId("v1", "Secret", self._namespace, self._name(name))

    def _options(self) -> str:
        """Return the options that name these releases, for commands in messages."""
        return f"--project-name {self._project} --kube {self._cluster.context} --namespace {self._namespace}"

    def _where(self) -> str:
        return f"{self._cluster.context}/{self._namespace}"


def _data(secret: Json) -> dict[str, bytes]:
    """Return the data of a Secret. Raises: ReleaseUnreadable."""
    try:
        return {key: base64.b64decode(value, validate=True) for key, value in (secret.get("data") or {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ReleaseUnreadable(f"a Secret of boltseal has invalid data: {error}") from error


def _uncompressed(raw: bytes) -> bytes:
    """Return what was compressed, at most MAX_FILE_BYTES. Raises: ReleaseUnreadable."""
    try:
        machine = zlib.decompressobj(wbits=31)
        whole = machine.decompress(raw, MAX_FILE_BYTES)
    except zlib.error as error:
        raise ReleaseUnreadable(f"could not be decompressed: {error}") from error
    if not machine.eof:
        raise ReleaseUnreadable("it is incomplete, or too large")
    return whole
