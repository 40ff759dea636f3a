"""The settings of a server as frozen values: names, defaults and allowed values.

Nothing is read here: a `Settings` is built from arguments, which `configuration` collects from file, environment and
flags. Each table of the file is a class. An invalid value raises pydantic's ValidationError, of which `configuration`
makes one line. `setting_values` checks single values, `policy` interprets rules and grants.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ByteSize, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from boltseal.errors import Invalid, quote
from boltseal.keyless.verifier import check_installed
from boltseal.ledger.cosigning import KnownLogs, known_logs
from boltseal.policy.durations import Duration
from boltseal.policy.globs import parse_repository_glob
from boltseal.policy.grants import Grants, parse_grants
from boltseal.policy.name_resolution import NameResolver, name_resolver
from boltseal.policy.notifications import NotifySettings, parse_notify
from boltseal.policy.person_claims import PersonTerms
from boltseal.policy.pipeline_rules import IssuerTerms, parse_issuers
from boltseal.policy.quotas import Quotas, parse_quotas
from boltseal.policy.rebuild_actions import RebuildAction, parse_on_outdated
from boltseal.policy.requirements import trusted_roots
from boltseal.policy.rules import RuleSet, parse_rules
from boltseal.policy.tag_expectations import TagExpectations, parse_tags
from boltseal.policy.token_scope import TokenTerms
from boltseal.policy.upstreams import UpstreamTerms, parse_upstreams
from boltseal.server import setting_values
from boltseal.server.listen_address import ListenAddress
from boltseal.server.page_settings import OidcInvalid, OidcSettings, UiSettings
from boltseal.server.storage_settings import SettingsTable, StorageSettings
from boltseal.signatures.certificate_chains import MAX_CRL_BYTES
from boltseal.signatures.trusted_root import MAX_TRUSTED_ROOT_BYTES

ENV_PREFIX: Final = "BOLTSEAL_"
ENV_SEPARATOR: Final = "__"
"""Environment variables are named like BOLTSEAL_SERVER__LISTEN for `listen` of `[server]`."""

LIVE_SERVER: Final = (
    "access_log",
    "public_metrics",
    "read_only",
    "disk_reserve_bytes",
    "min_body_bytes_per_s",
    "max_referrers_per_image",
)
"""The settings of `[server]` that SIGHUP applies, besides rules, grants and quotas; the others need a restart."""
_LIMITS_OF_AUTH: Final = frozenset(
    {"max_uploads_per_user", "quota", "token_life", "max_token_life", "owner_seen_within"}
)
"""The settings of `[auth]` that alone do not enable logins."""
AT_START_AUTH: Final = ("htpasswd",)
"""The settings of `[auth]` that need a restart."""

_MIB: Final = 1024 * 1024


class ServerSettings(SettingsTable):
    """`[server]`: where the server listens, where its data is, and its limits."""

    listen: Annotated[str, AfterValidator(setting_values.listen_text)] = "127.0.0.1:5000"
    """Address and port. On an address that other machines can reach the server needs users and TLS, or a flag below."""
    data: Annotated[Path, AfterValidator(setting_values.file_or_folder)] = Path("data")
    """The data folder, on a local disk."""
    keys: Annotated[Path, AfterValidator(setting_values.file_or_folder)] | None = None
    """The folder of keys, which all servers of one registry share or have a copy of. Default: `DATA.keys`, beside the data."""
    public_url: Annotated[str, AfterValidator(setting_values.public_url)] | None = None
    """Scheme and host that clients use, for absolute addresses in answers; without it they are relative."""
    allow_anonymous: bool = False
    """Serve other machines without users: every client may push, delete and pull."""
    behind_proxy: bool = False
    """Serve other machines without TLS: a proxy in front provides it."""
    trusted_proxies: tuple[Annotated[str, AfterValidator(setting_values.network)], ...] = ()
    """Addresses or networks of the proxies in front, whose `X-Forwarded-For` names the client; no other header is read."""
    tls_cert: Annotated[Path, AfterValidator(setting_values.file)] | None = None
    """TLS certificate and its chain, PEM."""
    tls_key: Annotated[Path, AfterValidator(setting_values.file)] | None = None
    """Private key of the certificate, PEM."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Worker processes."""
    max_connections: Annotated[int, Field(ge=16, le=65_536)] = 1024
    """Open connections per worker."""
    max_manifest_bytes: Annotated[ByteSize, Field(ge=4 * _MIB, le=64 * _MIB)] = ByteSize(4 * _MIB)
    """The largest manifest that is accepted."""
    min_body_bytes_per_s: Annotated[ByteSize, Field(ge=0, le=_MIB)] = ByteSize(512)
    """A body that is slower than this for a minute is refused (503); `0`: only if no byte arrives."""
    max_referrers_per_image: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """How many signatures, SBOMs and the like an image may have."""
    upload_buffer_bytes: Annotated[ByteSize, Field(ge=4 * _MIB, le=4096 * _MIB)] = ByteSize(32 * _MIB)
    """Memory that all uploads together may buffer."""
    shutdown_timeout_s: Annotated[int, Field(ge=1, le=3600)] = 4
    """How long requests in progress may take when the server is stopped."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged: `debug`, `info`, `warning` or `error`."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """Format of the log: `json`, `text`, or `auto` (text on a terminal, else JSON)."""
    access_log: bool = True
    """One line in the log for each request."""
    public_metrics: bool = False
    """All clients may read `/metrics`; otherwise this machine (not behind a proxy) and admins of every repository."""
    serve_stale: Annotated[str, AfterValidator(setting_values.stale_span)] = "60s"
    """How long sealed tags and blobs are served from memory while PostgreSQL does not answer; a purge may wait as long. `0s`: not."""
    read_only: bool = False
    """Serve pulls only; everything else is refused with a reason (405)."""
    disk_reserve_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(64 * _MIB)
    """Disk space that uploads leave free (507), for deletes, tags and records; `0`: none."""

    @property
    def address(self) -> ListenAddress:
        """`listen`, parsed."""
        return ListenAddress.parse(self.listen)


class AuthSettings(SettingsTable):
    """`[auth]`: authentication. It is required if there is a user, or any setting here besides limits, or if other machines reach the
    server without `allow_anonymous`.
    """

    htpasswd: Annotated[Path, AfterValidator(setting_values.file_or_folder)] | None = None
    """A users' file beside the users of the database: bcrypt, changes take effect at once. Default: `DATA.keys/htpasswd`."""
    anonymous_pull: bool | tuple[str, ...] = False
    """`true`: clients without a login may pull; or globs of the repositories that they may pull."""
    service: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:_-]{0,99}$")] = "boltseal"
    """Audience of the bearer tokens."""
    max_uploads_per_user: Annotated[int, Field(ge=1, le=100_000)] = 500
    """Open uploads per user, or per address without a login (429)."""
    token_life: Annotated[str, AfterValidator(setting_values.at_least_a_day)] = "90d"  # noqa: S105 - a duration
    """How long a new API token is valid, unless its creator says otherwise."""
    max_token_life: Annotated[str, AfterValidator(setting_values.at_least_a_day)] = "366d"  # noqa: S105 - a duration
    """How long a new API token may be valid at most."""
    owner_seen_within: Annotated[str, AfterValidator(setting_values.at_least_a_day)] = "30d"
    """A person's API tokens work only while the person logged in with the password within this time, or by `[auth.oidc]`; those of service accounts always."""
    oidc: OidcSettings = OidcSettings()
    grant: tuple[dict[str, Any], ...] = ()
    issuer: tuple[dict[str, Any], ...] = ()
    quota: tuple[dict[str, Any], ...] = ()

    @property
    def configured(self) -> bool:
        """Whether the table configures access; limits alone do not."""
        return bool(self.model_fields_set - _LIMITS_OF_AUTH)

    @property
    def token_terms(self) -> TokenTerms:
        """How long API tokens work. The default is never more than the maximum."""
        longest_us = Duration.parse(self.max_token_life).us
        return TokenTerms(
            min(Duration.parse(self.token_life).us, longest_us), longest_us, Duration.parse(self.owner_seen_within).us
        )


class LedgerSettings(SettingsTable):
    """`[ledger]`: its name (fixed at the first start; default: from the address), and who may read it.

    `public`: the checkpoint and hashes, which reveal no names, need no login.
    """

    origin: Annotated[str, AfterValidator(setting_values.ledger_origin)] | None = None
    """The name of the ledger, fixed at the first start. Default: made from the address."""
    public: bool = False
    """Checkpoint and hashes are public, not only for users; they reveal no names."""
    witness_quorum: Annotated[int, Field(ge=1)] | None = None
    """How many witnesses must agree after a start before anything is written. Default: all; more are counted as all."""


class WitnessSettings(SettingsTable):
    """`[[witness]]`: a server that cosigns each checkpoint. `key`: its cosignature key, `name+id+base64`."""

    url: Annotated[str, AfterValidator(setting_values.witness_url)]
    """The address of a witness (C2SP tlog-witness) that gets each checkpoint; any number of `[[witness]]`."""
    key: Annotated[str, AfterValidator(setting_values.witness_key)]
    """The key of its cosignatures, `name+id+base64`."""
    monitoring: Annotated[str, AfterValidator(setting_values.witness_url)] | None = None
    """The prefix under which it shows the checkpoints that it cosigned (C2SP tlog-witness). Default: `url`."""


class WitnessServiceSettings(SettingsTable):
    """`[witness_service]`: this registry as a witness of other ledgers (C2SP tlog-witness), under `/witness`."""

    logs: Annotated[
        tuple[Annotated[str, AfterValidator(setting_values.witnessed_log)], ...], Field(max_length=1000)
    ] = ()
    """Keys of the ledgers whose checkpoints this registry cosigns, as `boltseal ledger key` prints them; behind a space the ledger's origin, if that is not the key's name. None: it is no witness."""
    name: Annotated[str, AfterValidator(setting_values.ledger_origin)] | None = None
    """The name of the key of the cosignatures, fixed at the first start. Default: the host of `public_url`, else the address, and `/witness`."""

    @property
    def known_logs(self) -> KnownLogs:
        """The keys of `logs` by origin."""
        return known_logs(self.logs)


class LocalSettings(SettingsTable):
    """`[local]`: repositories that are never resolved to an upstream, even before the first push to them."""

    namespaces: tuple[Annotated[str, AfterValidator(setting_values.namespace)], ...] = ()
    """Globs of the repositories that never belong to a mirror, even before the first push to them."""


class OutdatedSettings(SettingsTable):
    """`[outdated]`: images that are not judged by their base, as of `policy.ignored_images`."""

    ignore: tuple[str, ...] = ()
    """Globs of images for which no rebuild is requested, by repository or name, with or without a tag; `*` matches `/`."""


class Settings(BaseSettings):
    """All settings of a server. They are built from arguments only; `configuration.load` reads file and environment."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_SEPARATOR,
    )

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    auth: AuthSettings = AuthSettings()
    ui: UiSettings = UiSettings()
    ledger: LedgerSettings = LedgerSettings()
    local: LocalSettings = LocalSettings()
    outdated: OutdatedSettings = OutdatedSettings()
    rule: tuple[dict[str, Any], ...] = ()
    upstream: tuple[dict[str, Any], ...] = ()
    tags: tuple[dict[str, Any], ...] = ()
    witness: tuple[WitnessSettings, ...] = ()
    witness_service: WitnessServiceSettings = WitnessServiceSettings()
    notify: tuple[dict[str, Any], ...] = ()
    on_outdated: tuple[dict[str, Any], ...] = ()

    @cached_property
    def rules(self) -> RuleSet:
        """The `[[rule]]` tables followed by the built-in rules.

        Raises: RuleInvalid: names the first invalid rule; KeylessNotInstalled.
        """
        rules = parse_rules(self.rule, read_key=_read_key_file)
        check_installed(root for rule in rules.user for root in trusted_roots(rule.require))
        return rules

    @cached_property
    def grants(self) -> Grants:
        """The `[[auth.grant]]` tables. Raises: GrantInvalid: names the first invalid grant."""
        return parse_grants(self.auth.grant, self.auth.anonymous_pull)

    @cached_property
    def issuers(self) -> tuple[IssuerTerms, ...]:
        """The `[[auth.issuer]]` tables. Raises: IssuerInvalid: names the first invalid table."""
        return parse_issuers(self.auth.issuer)

    @cached_property
    def person_terms(self) -> PersonTerms | None:
        """What tokens of people of `[auth.oidc]` must be; None: there is no provider. Raises: OidcInvalid."""
        terms = self.auth.oidc.terms()
        if terms is not None and self.base_url is None:
            raise OidcInvalid(
                "[auth.oidc]: the address to which the provider sends people back is not known; set public_url in [server]"
            )
        return terms

    @property
    def base_url(self) -> str | None:
        """Scheme and host by which clients reach this server, None if the settings do not determine them."""
        server = self.server
        if server.public_url is not None or server.address.any_interface:
            return server.public_url
        return f"{'https' if server.tls_cert else 'http'}://{server.address}"

    @property
    def encrypted(self) -> bool:
        """Whether browsers reach this server by TLS, of its own or of a proxy in front."""
        if self.server.public_url is not None:
            return self.server.public_url.startswith("https:")
        return self.server.tls_cert is not None or self.server.behind_proxy

    @cached_property
    def quotas(self) -> Quotas:
        """The `[[auth.quota]]` tables. Raises: QuotaInvalid: names the first invalid quota."""
        return parse_quotas(self.auth.quota)

    @cached_property
    def upstreams(self) -> tuple[UpstreamTerms, ...]:
        """The `[[upstream]]` tables. Raises: UpstreamInvalid: names the first invalid upstream; KeylessNotInstalled."""
        upstreams = parse_upstreams(self.upstream, _read_key_file)
        check_installed(root for terms in upstreams for rule in terms.rules for root in trusted_roots(rule.require))
        return tuple(replace(terms, tags=self.expectations) for terms in upstreams)

    @cached_property
    def expectations(self) -> TagExpectations:
        """The `[[tags]]` tables. Raises: TagsInvalid: names the first invalid table."""
        return TagExpectations(parse_tags(self.tags))

    @cached_property
    def receivers(self) -> tuple[NotifySettings, ...]:
        """The `[[notify]]` tables. Raises: NotifyInvalid: names the first invalid receiver."""
        return parse_notify(self.notify)

    @cached_property
    def actions(self) -> tuple[RebuildAction, ...]:
        """The `[[on_outdated]]` tables. Raises: OnOutdatedInvalid: names the first invalid action."""
        return parse_on_outdated(self.on_outdated)

    @cached_property
    def own_names(self) -> frozenset[str]:
        """The host names by which clients may know this registry."""
        own = {self.server.listen}
        if self.server.address.loopback:
            own |= {f"localhost:{self.server.address.port}", f"127.0.0.1:{self.server.address.port}"}
        if self.server.public_url is not None:
            own.add(self.server.public_url.partition("://")[2])
        return frozenset(own)

    @cached_property
    def name_resolver(self) -> NameResolver:
        """Resolves repository names to local repositories or upstreams."""
        namespaces = [parse_repository_glob(text) for text in self.local.namespaces]
        return name_resolver(self.upstreams, namespaces, self.own_names)

    @property
    def keys(self) -> Path:
        """The folder of keys and users: beside the data, not in it, so that a copy of the data contains no secrets."""
        return self.server.keys or self.server.data.with_name(f"{self.server.data.name}.keys")

    @property
    def login_required(self) -> bool:
        """Whether callers must log in even while there is no user: `[auth]` configures access, or other machines reach the server.

        So the last user's removal, or a users' file that disappears, does not open a running server to a network.
        """
        return self.auth.configured or not (self.server.address.loopback or self.server.allow_anonymous)

    @property
    def login_stays_required(self) -> bool:
        """Whether callers must log in once there was a user, also after the last one was removed: a proxy lets other machines in."""
        return self.server.behind_proxy and not self.server.allow_anonymous

    @property
    def htpasswd(self) -> Path:
        """The users' file."""
        return self.auth.htpasswd or self.keys / "htpasswd"

    def with_live_changes(self, newer: Settings) -> Settings:
        """Return these settings with what a running server applies from a changed configuration."""
        server = self.server.model_copy(update={name: getattr(newer.server, name) for name in LIVE_SERVER})
        at_start = {name: at for name in AT_START_AUTH if (at := getattr(self.auth, name)) != getattr(newer.auth, name)}
        # An updated field counts as configured, so only those that differ are updated.
        auth = newer.auth.model_copy(update=at_start)
        live = {"server", "auth", "rule"}
        kept = {name: getattr(self, name) for name in type(self).model_fields if name not in live}
        return type(self)(server=server, auth=auth, rule=newer.rule, **kept)

    def restart_required(self, newer: Settings) -> tuple[str, ...]:
        """Return the settings that differ in `newer` and need a restart."""
        taken = self.with_live_changes(newer)
        tables = {name: getattr(taken, name) for name in type(self).model_fields}
        of_tables = tuple(
            f"[{table}] {name}"
            for table, settings in tables.items()
            if isinstance(settings, BaseModel)
            for name in type(settings).model_fields
            if getattr(settings, name) != getattr(getattr(newer, table), name)
        )
        of_lists = tuple(
            f"[[{name}]]"
            for name, entries in tables.items()
            if not isinstance(entries, BaseModel) and entries != getattr(newer, name)
        )
        return of_tables + of_lists

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the arguments; `configuration.load` reads the other sources to know where each value is from."""
        return (init_settings,)


def exposure_refusal(server: ServerSettings, *, authenticated: bool) -> str | None:
    """Return why the server must not listen on its address, or None (guarantee 12: secure by default).

    An address that other machines can reach needs authentication and TLS, or for each of them the flag with which the
    operator takes responsibility. `authenticated`: callers must log in.
    """
    if server.address.loopback:
        return None
    missing = []
    if not authenticated and not server.allow_anonymous:
        missing.append("authentication: add a user with `boltseal admin user add NAME`, or pass --allow-anonymous")
    if server.tls_cert is None and not server.behind_proxy:
        missing.append("TLS: pass --tls-cert and --tls-key, or --behind-proxy if a proxy in front provides it")
    if not missing:
        return None
    return f"refusing to listen on {server.address}, which other machines can reach, without {'; and without '.join(missing)}"


def registry_name(settings: Settings) -> str:
    """Return the host name by which clients know this registry: that of `public_url`, else the listen address."""
    if settings.server.public_url is not None:
        return settings.server.public_url.partition("://")[2]
    address = settings.server.address
    return f"localhost:{address.port}" if address.loopback else settings.server.listen


def _read_key_file(file: str) -> bytes:
    """Read a file of keys, certificates, CRLs or a trusted root that a rule names; one byte more than the longest. Raises: Invalid."""
    try:
        with Path(file).open("rb") as opened:
            return opened.read(max(MAX_CRL_BYTES, MAX_TRUSTED_ROOT_BYTES) + 1)
    except OSError as error:
        raise Invalid(f"cannot read {quote(file)}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise Invalid(f"cannot read {quote(file)}: not a file name") from error
