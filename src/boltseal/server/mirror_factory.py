"""Builds the upstreams of a server, each with a client and its login, and the mirror and push proxy over them.

A password is read once, at the start. No setting, message or log contains it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.client.credentials import Credentials, SingleLogin
from boltseal.client.hosts import api_host, host_name
from boltseal.client.ssrf_guard import SsrfGuard
from boltseal.client.transport import DEFAULT_PORTS, Transport, TransportOptions
from boltseal.config import secret_variable
from boltseal.errors import Invalid
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.mirror.cache import MirrorCache
from boltseal.server.mirror.last_pull import LastPulls
from boltseal.server.mirror.push_proxy import PushProxy
from boltseal.server.mirror.upstream_limits import EventHandler, UpstreamLimits
from boltseal.server.mirror.upstream_lists import UpstreamLists
from boltseal.server.mirror.upstream_tags import UpstreamTags
from boltseal.server.mirror.upstreams import Upstream, Upstreams
from boltseal.server.registry import Registry
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.coordination.protocol import InterprocessLock
from boltseal.server.storage.metadata.protocol import Metadata

# A client waits for each of these requests, and the store may have an older answer.
UPSTREAM_TIMEOUT_S: Final = 10.0
ATTEMPTS: Final = 2
PATIENCE_S: Final = 1.0
WHOLE_S: Final = 30.0
"""How long a whole document may take, even if bytes keep arriving."""
PUSH_TIMEOUT_S: Final = 300.0
"""How long upstream may take to store a blob."""


class MirrorServices(NamedTuple):
    """What serves the images of upstreams, and what forwards pushes to them."""

    mirror: MirrorCache
    push_proxy: PushProxy


def build_upstreams(terms: Sequence[UpstreamTerms], *, timeout_s: float = UPSTREAM_TIMEOUT_S) -> Upstreams:
    """Return the configured upstreams, each with a client of its own. `timeout_s`: of a request that a client waits for.

    Raises:
        Invalid: a password file cannot be read or is empty.
        ConfigInvalid: an environment variable with a password is not set.
        AuthorityInvalid: the address of an upstream is invalid.
    """
    return Upstreams(_upstream(each, timeout_s) for each in terms)


def build_mirror(
    upstreams: Upstreams,
    registry: Registry,
    store: BlobStore,
    database: Metadata,
    locks: InterprocessLock,
    *,
    clock: Callable[[], int],
    on_event: EventHandler,
    check_disk: Callable[[int], None],
    read_only: Callable[[], str | None],
    count: Callable[[str], None],
) -> MirrorServices:
    """Return the mirror and the push proxy over one registry and its upstreams.

    `locks`: shared by all processes of the store. `on_event`: receives the events of upstreams and their tags. `check_disk`:
    raises ReserveReached when that many more bytes do not fit. `read_only`: returns why nothing may be written, or None.
    `count`: counts an event by name.
    """
    limits = UpstreamLimits(registry.upstreams, clock=clock, on_event=on_event)
    tags = UpstreamTags(
        registry.observations, limits, locks, clock=clock, on_event=on_event, read_only=read_only, count=count
    )
    mirror = MirrorCache(
        upstreams=upstreams,
        tags=tags,
        limits=limits,
        registry=registry,
        store=store,
        lists=UpstreamLists(database, registry.pulls, limits, clock),
        locks=locks,
        last_pulls=LastPulls(database, clock, read_only),
        clock=clock,
        check_disk=check_disk,
        read_only=read_only,
        count=count,
    )
    return MirrorServices(mirror, PushProxy(registry, store, upstreams, limits, locks, count=count))


def _upstream(terms: UpstreamTerms, timeout_s: float) -> Upstream:
    options = TransportOptions(
        plain_http=frozenset({terms.authority}) if terms.plain_http else frozenset(),
        ca_file=None if terms.ca_file is None else Path(terms.ca_file),
        timeout_s=timeout_s,
        whole_s=WHOLE_S,
        attempts=ATTEMPTS,
        retry_busy=False,
        patience_s=PATIENCE_S,
        reach=SsrfGuard(_home(terms), terms.allow_redirects_to),
    )
    login = SingleLogin(terms.authority, _login(terms))
    if not terms.push:
        return Upstream.over(terms, Transport(login, options))
    patient = replace(options, timeout_s=PUSH_TIMEOUT_S, whole_s=PUSH_TIMEOUT_S)
    return Upstream.over(terms, Transport(login, options), Transport(login, patient))


def _home(terms: UpstreamTerms) -> tuple[str, int]:
    """Return the host and port of the upstream's API."""
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
        reason = error.strerror if isinstance(error, OSError) else "the file is not UTF-8 text"
        raise Invalid(f"cannot read the password of upstream {terms.name} from {file}: {reason}") from error
    if not password or "\n" in password:
        raise Invalid(f"{file} has no password for upstream {terms.name}; expected exactly one line")
    return Credentials(terms.username, password)
