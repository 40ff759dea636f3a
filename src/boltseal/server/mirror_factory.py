"""Builds the upstreams of a server: reads what their logins are kept in, and makes a client for each.

A password is read once, at the start. It is in no setting, no message and no log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from boltseal.client.credentials import Credentials, SingleLogin
from boltseal.client.hosts import api_host, host_name
from boltseal.client.ssrf_guard import SsrfGuard
from boltseal.client.transport import DEFAULT_PORTS, Transport, TransportOptions
from boltseal.config import secret_variable
from boltseal.errors import Invalid
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.mirror.cache import Mirror
from boltseal.server.mirror.last_pull import LastPulls
from boltseal.server.mirror.push_proxy import PushProxy
from boltseal.server.mirror.upstream_limits import UpstreamLimits
from boltseal.server.mirror.upstream_lists import UpstreamLists
from boltseal.server.mirror.upstream_tags import UpstreamTags
from boltseal.server.mirror.upstreams import Upstream, Upstreams

if TYPE_CHECKING:
    from boltseal.server.mirror.upstream_limits import Tell
    from boltseal.server.registry import Registry
    from boltseal.server.storage.blobs.protocol import BlobStore
    from boltseal.server.storage.coordination.interprocess_lock import InterprocessLock
    from boltseal.server.storage.metadata.database import Database


# A client waits behind each of these, and there may be something in the store to answer with.
TIMEOUT_S: Final = 10.0
ATTEMPTS: Final = 2
PATIENCE_S: Final = 1.0
WHOLE_S: Final = 30.0
"""How long a document may take to come whole, however steadily it drips."""
PUSH_TIMEOUT_S: Final = 300.0
"""How long upstream may take to store a blob that it was sent."""


class UpstreamPasswordInvalid(Invalid):
    """A password's file that can't be read, or holds none. The server does not start."""


def build_upstreams(terms: Sequence[UpstreamTerms]) -> Upstreams:
    """A client for each upstream. UpstreamPasswordInvalid, ConfigInvalid, AuthorityInvalid."""
    return Upstreams(_upstream(each) for each in terms)


def build_mirror(
    upstreams: Upstreams,
    registry: Registry,
    store: BlobStore,
    database: Database,
    turns: InterprocessLock,
    *,
    clock: Callable[[], int],
    tell: Tell,
    check_room: Callable[[int], None],
    read_only: Callable[[], str | None],
    count: Callable[[str], None],
) -> tuple[Mirror, PushProxy]:
    """What serves their images from the store, and what passes pushes on to them.

    `tell` is handed what happens to upstreams and their tags.
    """
    limits = UpstreamLimits(registry.upstreams, clock=clock, tell=tell)
    tags = UpstreamTags(registry.observations, limits, turns, clock=clock, tell=tell, read_only=read_only, count=count)
    mirror = Mirror(
        upstreams,
        tags,
        limits,
        registry,
        store,
        UpstreamLists(database, registry.pulls, limits, clock),
        turns,
        LastPulls(database, clock, read_only),
        clock=clock,
        check_room=check_room,
        read_only=read_only,
        count=count,
    )
    return mirror, PushProxy(registry, store, upstreams, limits, turns, count=count)


def _upstream(terms: UpstreamTerms) -> Upstream:
    options = TransportOptions(
        plain_http=frozenset({terms.authority}) if terms.plain_http else frozenset(),
        ca_file=None if terms.ca_file is None else Path(terms.ca_file),
        timeout_s=TIMEOUT_S,
        whole_s=WHOLE_S,
        attempts=ATTEMPTS,
        patience_s=PATIENCE_S,
        reach=SsrfGuard(_home(terms), terms.allow_redirects_to),
    )
    login = SingleLogin(terms.authority, _login(terms))
    if not terms.push:
        return Upstream.over(terms, Transport(login, options))
    patient = replace(options, timeout_s=PUSH_TIMEOUT_S, whole_s=PUSH_TIMEOUT_S)
    return Upstream.over(terms, Transport(login, options), Transport(login, patient))


def _home(terms: UpstreamTerms) -> tuple[str, int]:
    """The host and port that upstream itself is asked at."""
    host = api_host(terms.authority)
    port = host.rpartition(":")[2] if host.rpartition("]")[2].count(":") else ""
    return host_name(host), int(port) if port else DEFAULT_PORTS["http" if terms.plain_http else "https"]


def _login(terms: UpstreamTerms) -> Credentials | None:
    if terms.username is None:
        return None
    if terms.password_env is not None:
        return Credentials(terms.username, secret_variable(terms.password_env))
    file = Path(terms.password_file or "")
    try:
        password = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UpstreamPasswordInvalid(
            f"the password of upstream {terms.name} can't be read from {file}: {reason}"
        ) from error
    if not password or "\n" in password:
        raise UpstreamPasswordInvalid(
            f"{file} holds no password for upstream {terms.name}; expected one line and nothing else"
        )
    return Credentials(terms.username, password)
