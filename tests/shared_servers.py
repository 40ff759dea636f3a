"""Two `boltseal serve` processes on one PostgreSQL database, one bucket and one folder of keys, for requests over HTTP.

Each has a data folder of its own. Users are those of `tests.logins`.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import httpx2

from tests.images import OCTETS, Blob, error_of, with_digest
from tests.logins import AUTH, PASSWORDS, login
from tests.servers import Server, boltseal
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


@dataclass(frozen=True, slots=True)
class SharedServers:
    """The two servers, and a client of the bucket below their prefix."""

    first: Server
    second: Server
    objects: ObjectServer
    prefix: str

    def client(self, user: str | None = "ci", *, second: bool = False) -> httpx2.Client:
        """Return a client of one server with the login of a user; None: without a login. It follows no redirect."""
        server = self.second if second else self.first
        auth = None if user is None else login(user)
        return httpx2.Client(base_url=server.url, auth=auth, trust_env=False, timeout=60.0)

    def logged(self) -> str:
        """Return what both servers have logged so far."""
        return self.first.log.read_text() + self.second.log.read_text()


@contextlib.contextmanager
def shared_servers(folder: Path, database: str, objects: ObjectServer, **s3: Any) -> Iterator[SharedServers]:
    """Run both servers. `database`: the address of one that has no tables yet. `s3`: more of `[storage.s3]`."""
    prefix = f"t{uuid.uuid4().hex}"
    keys = folder / "one.keys"
    keys.mkdir(mode=0o700)
    (folder / "two.keys").symlink_to(keys)
    lines = [f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}" for name, word in PASSWORDS.items()]
    (keys / "htpasswd").write_text("\n".join(lines) + "\n")
    config = _config(
        {
            "server": {"log_level": "debug"},
            "auth": {"anonymous_pull": AUTH["anonymous_pull"]},
            "storage": {"database": database, "blobs": f"s3://{BUCKET}/{prefix}"},
            "storage.s3": {"endpoint": objects.endpoint, **s3},
            "storage.mark": {"url": f"s3://{BUCKET}/{prefix}.mark", "endpoint": objects.endpoint},
        },
        AUTH["grant"],
    )
    with (
        boltseal(folder / "one", config=config, settings=CREDENTIALS) as one,
        boltseal(folder / "two", config=config, settings=CREDENTIALS) as two,
    ):
        yield SharedServers(one, two, objects, prefix)


def _config(tables: dict[str, dict[str, Any]], grants: Any) -> str:
    """Return tables as TOML, whose strings, numbers and lists are written as in JSON."""
    lines: list[str] = []
    for name, table in [*tables.items(), *(("[auth.grant]", grant) for grant in grants)]:
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def begin(client: httpx2.Client, repository: str = "shop/app") -> str:
    """Begin an upload session and return its path, which both servers know."""
    answer = client.post(f"/v2/{repository}/blobs/uploads/")
    assert answer.status_code == 202, answer.text
    return httpx2.URL(answer.headers["location"]).path


def offset(client: httpx2.Client, session: str) -> int:
    """Return how many bytes a session has; 0 also for one byte, whose range is that of an empty session."""
    answer = client.get(session)
    assert answer.status_code == 204, answer.text
    last = int(answer.headers["range"].removeprefix("0-"))
    return last + 1 if last else 0


def append(client: httpx2.Client, session: str, data: bytes, start: int | None = None) -> httpx2.Response:
    """Send a chunk; `start`: with a Content-Range that begins there."""
    ranged = {} if start is None else {"content-range": f"{start}-{start + len(data) - 1}"}
    return client.patch(session, content=data, headers={"content-type": OCTETS, **ranged})


def finish(client: httpx2.Client, session: str, digest: str, data: bytes = b"") -> httpx2.Response:
    """Finish a session with its digest, and with its last bytes."""
    return client.put(with_digest(session, digest), content=data)


def push_blob(client: httpx2.Client, repository: str, blob: Blob) -> None:
    """Push a blob in one request."""
    answer = client.post(f"/v2/{repository}/blobs/uploads/", params={"digest": blob.digest}, content=blob.data)
    assert answer.status_code == 201, answer.text


def refused(answer: httpx2.Response) -> tuple[int, str]:
    """Return status and code of a refusal."""
    return answer.status_code, error_of(answer)[0]
