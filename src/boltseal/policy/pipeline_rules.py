"""The `[[auth.issuer]]` tables: which pipelines may do what in which repository, by the claims of their ID tokens. Pure.

A rule matches a token if each claim that it states is there and equal: `claims` literally, `claims_glob` by an anchored
glob. Rules add up, and the default is deny. A rule states at least one claim that identifies the pipeline and that no other
organisation can get, such as `repository_id`: a name can be given to another user after a rename or a deletion.

With `tag` a rule allows a push to that tag alone, and to those of `also` where the registry's rules let them move. The
name of a git tag is inserted and compared as it is, never as a glob. What may be pushed besides tags (digests, signatures
of an image) is in `server.api.pipeline_pushes`. `[[auth.grant]]` gives nothing to pipelines, also not for users = ["*"].
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from boltseal.errors import Invalid, quote
from boltseal.oci.reference import Tag, TagInvalid
from boltseal.policy.config_table import ConfigTable
from boltseal.policy.durations import DurationInvalid, parse_duration
from boltseal.policy.globs import Glob, GlobInvalid, parse_claim_glob, parse_repository_glob
from boltseal.policy.grants import NOTHING, Action
from boltseal.policy.pipeline_claims import PULL_REQUEST_TARGET, PipelineClaims, minor_of
from boltseal.policy.setting_keys import SettingKey

MAX_ISSUERS: Final = 20
MAX_RULES: Final = 1000
OFFLINE_US: Final = 3_600_000_000
MAX_OFFLINE_US: Final = 12 * 3_600_000_000
ISSUER_KEYS: Final = {
    "name": SettingKey("", "The issuer's name in the ledger and in messages, such as `github`."),
    "url": SettingKey("", "Its `iss`, such as `https://token.actions.githubusercontent.com`; keys are found below it."),
    "audience": SettingKey("", "The `aud` that tokens must have, and no other; such as the address of this registry."),
    "ca_file": SettingKey("", "Certificate authority of the issuer, PEM; default: those of the system."),
    "allow_keys_from": SettingKey("[]", "Hosts in internal networks from which the issuer may have its keys fetched."),
    "offline_for": SettingKey("60m", "How long the login of a client that asks for a refresh token (docker) lasts."),
    "rule": SettingKey("[]", "The rights of its pipelines, as `[[auth.issuer.rule]]` tables."),
}
ISSUER_RULE_KEYS: Final = {
    "claims": SettingKey("", 'Claims and their values, such as `{ repository_id = "123" }`; all must be equal.'),
    "claims_glob": SettingKey("{}", "Claims and globs that match the whole value; `*` stops at `/`, `**` does not."),
    "repository": SettingKey("", "Repositories of the rule, a glob."),
    "actions": SettingKey("", "`pull`, `push`, `delete`; none includes another."),
    "tag": SettingKey(
        "", "The only tag that may be pushed; `{git_tag}`: of the pipeline, which must run for a git tag."
    ),
    "strip_prefix": SettingKey("", "What is removed from the beginning of the git tag, such as `v`."),
    "also": SettingKey(
        "[]", "Mutable tags that may be pushed as well: `latest`, `{git_tag_minor}` (`1.4` of `1.4.2`)."
    ),
    "allow_pull_request_target": SettingKey(
        "false", "Accept pipelines of `pull_request_target`, which may run an attacker's code with your rights."
    ),
}
PIPELINE_ACTIONS: Final = frozenset({Action.PULL, Action.PUSH, Action.DELETE})

_NAMES: Final = frozenset(
    {"repository", "repository_owner", "workflow", "workflow_ref", "job_workflow_ref", "actor"}
    | {"project_path", "namespace_path", "user_login", "user_email", "ci_config_ref_uri", "enterprise"}
    | {"job_project_path", "job_namespace_path"}
)
"""Claims that are names, which may be given to others."""
_CIRCUMSTANCES: Final = frozenset(
    {"iss", "aud", "exp", "nbf", "iat", "jti", "ref", "ref_type", "ref_path", "ref_protected", "head_ref", "base_ref"}
    | {"sha", "workflow_sha", "job_workflow_sha", "run_id", "run_number", "run_attempt", "pipeline_id", "job_id"}
    | {"event_name", "environment", "environment_protected", "deployment_tier", "runner_environment", "pipeline_source"}
    | {"repository_visibility", "project_visibility", "ci_config_sha", "check_run_id", "runner_id", "user_access_level"}
    | {"deployment_action", "environment_action", "actor_id", "user_id"}
)
"""Claims that pipelines of any repository may have. `actor_id` and `user_id` are of the person who caused a run: a person who opens an
issue in an attacker's repository causes one there.
"""
_SUBJECTS_OF_NAMES: Final = ("repo:", *(f"{name}:" for name in sorted(_NAMES | _CIRCUMSTANCES)))
"""How subjects begin that have names or circumstances first: also those that GitHub makes of the claims that a repository chooses."""
_is_name = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII).fullmatch
_is_host = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.ASCII).fullmatch
_is_about_a_digest = re.compile(r"sha(?:256|512)-[0-9a-f]{64}", re.ASCII | re.IGNORECASE).match
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class IssuerInvalid(Invalid):
    """An `[[auth.issuer]]` table that is invalid or contradicts another. The server does not start."""


@dataclass(frozen=True, slots=True)
class TagLimits:
    """The tags that a pipeline may push in a repository. `also`: only where the registry's rules let the tag move."""

    tags: frozenset[str]
    also: frozenset[str]


@dataclass(frozen=True, slots=True)
class PipelineRights:
    """What a pipeline may do in a repository. `limits`: of the tags that it may push; None: any."""

    actions: frozenset[Action] = NOTHING
    limits: TagLimits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRule:
    """One `[[auth.issuer.rule]]`. `tag`: None for every tag."""

    claims: Mapping[str, str]
    claims_glob: Mapping[str, Glob]
    repository: Glob
    actions: frozenset[Action]
    tag: str | None = None
    strip_prefix: str = ""
    also: tuple[str, ...] = ()
    allow_pull_request_target: bool = False

    def matches(self, claims: PipelineClaims) -> bool:
        """Return whether the rule applies to a pipeline. With `tag` it needs a git tag that gives a valid tag."""
        texts = claims.texts
        if texts.get("event_name") == PULL_REQUEST_TARGET and not self.allow_pull_request_target:
            return False
        return (
            all(texts.get(name) == value for name, value in self.claims.items())
            and all(name in texts and glob.matches(texts[name]) for name, glob in self.claims_glob.items())
            and (self.tag is None or self.limits(claims) is not None)
        )

    def limits(self, claims: PipelineClaims) -> TagLimits | None:
        """Return the tags that the rule allows a pipeline to push; None: every tag, or of a rule with `tag` none."""
        if self.tag is None:
            return None
        git_tag = claims.git_tag
        if git_tag is not None:
            git_tag = git_tag.removeprefix(self.strip_prefix) if git_tag.startswith(self.strip_prefix) else None
        tag = _expanded(self.tag, git_tag)
        if tag is None:
            return None
        return TagLimits(frozenset({tag}), frozenset(filter(None, (_expanded(text, git_tag) for text in self.also))))


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerTerms:
    """One `[[auth.issuer]]` table. `offline_us`: how long a refresh token is valid, in microseconds."""

    name: str
    url: str
    audience: str
    ca_file: str | None = None
    allow_keys_from: frozenset[str] = frozenset()
    offline_us: int = OFFLINE_US
    rules: tuple[PipelineRule, ...] = ()

    def matches(self, claims: PipelineClaims) -> bool:
        """Return whether any rule applies to a pipeline. Without one its token opens no session."""
        return any(rule.matches(claims) for rule in self.rules)

    def rights(self, claims: PipelineClaims, repository: str) -> PipelineRights:
        """Return what a pipeline may do in a repository: the sum of all rules that apply."""
        found = [rule for rule in self.rules if rule.repository.matches(repository) and rule.matches(claims)]
        actions = NOTHING.union(*(rule.actions for rule in found))
        limits = [rule.limits(claims) for rule in found if Action.PUSH in rule.actions]
        limited = [each for each in limits if each is not None]
        if not limited or len(limited) < len(limits):
            return PipelineRights(actions)
        tags = frozenset[str]().union(*(each.tags for each in limited))
        also = frozenset[str]().union(*(each.also for each in limited))
        return PipelineRights(actions, TagLimits(tags, also))

    def pulled(self, claims: PipelineClaims) -> tuple[Glob, ...]:
        """Return the globs of the repositories that a pipeline may pull."""
        return tuple(rule.repository for rule in self.rules if Action.PULL in rule.actions and rule.matches(claims))


def parse_issuers(tables: Sequence[Mapping[str, object]]) -> tuple[IssuerTerms, ...]:
    """Read the `[[auth.issuer]]` tables. Raises: IssuerInvalid for the first fault."""
    if len(tables) > MAX_ISSUERS:
        raise IssuerInvalid(f"{len(tables)} issuers; at most {MAX_ISSUERS} are allowed")
    found: list[IssuerTerms] = []
    for number, table in enumerate(tables, start=1):
        terms = _issuer(_Table(f"issuer {number}", table, ISSUER_KEYS))
        for other in found:
            if terms.name == other.name or terms.url == other.url:
                raise IssuerInvalid(
                    f"issuer {number}: its name or url is that of issuer {quote(other.name)}; expected one table for each issuer"
                )
        found.append(terms)
    return tuple(found)


def _expanded(text: str, git_tag: str | None) -> str | None:
    """Return a tag with the git tag inserted; None if there is none to insert, or the result is no tag of a release.

    Tags such as `sha256-<hex>.sig` say something about another image: who may push a git tag must not choose which.
    """
    minor = None if git_tag is None else minor_of(git_tag)
    parts = {"git_tag": git_tag, "git_tag_minor": minor}
    if any(parts[name] is None for name in _PLACEHOLDER.findall(text)):
        return None
    try:
        tag = Tag(_PLACEHOLDER.sub(lambda match: parts[match[1]] or "", text))
    except TagInvalid:
        return None
    return None if _is_about_a_digest(tag) else tag


class _Table(ConfigTable):
    """One table of the configuration, with typed access to its values."""

    def __init__(self, where: str, table: Mapping[str, object], keys: Collection[str]) -> None:
        super().__init__(where, table, keys, IssuerInvalid)

    def text(self, key: str, expected: str = "a text in quotes", default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value.isprintable() or (not value and default is None):
            raise self.wrong(key, expected)
        return value

    def has(self, key: str) -> bool:
        return key in self.values

    def texts(self, key: str, expected: str) -> tuple[str, ...]:
        value = self.values.get(key, ())
        if not isinstance(value, list | tuple) or not all(isinstance(text, str) and text for text in value):
            raise self.wrong(key, expected)
        return tuple(value)

    def claims(self, key: str) -> dict[str, str]:
        value = self.values.get(key, {})
        if not isinstance(value, Mapping) or not all(isinstance(text, str | int) for text in value.values()):
            raise self.wrong(key, 'claims and values, such as { repository_id = "123" }')
        return {name: str(text).lower() if isinstance(text, bool) else str(text) for name, text in value.items()}

    def tables(self, key: str) -> Sequence[Mapping[str, object]]:
        value = self.values.get(key, ())
        if not isinstance(value, list | tuple) or not value or not all(isinstance(table, Mapping) for table in value):
            raise self.wrong(key, f"tables, each written as [[auth.issuer.{key}]]")
        return value


def _issuer(table: _Table) -> IssuerTerms:
    name = table.text("name", "a name such as github")
    if not _is_name(name) or len(name) > 40:
        raise table.wrong("name", "lower-case letters, digits and single -, at most 40")
    hosts = table.texts("allow_keys_from", "a list of host names")
    if not all(_is_host(host) for host in hosts):
        raise table.wrong("allow_keys_from", 'host names without ports, in lower case, such as ["idp.example.com"]')
    rules = table.tables("rule")
    if len(rules) > MAX_RULES:
        raise IssuerInvalid(f"{table.where}: {len(rules)} rules; at most {MAX_RULES} are allowed")
    return IssuerTerms(
        name=name,
        url=_url(table),
        audience=table.text("audience", "the address of this registry, or another text that only it uses"),
        ca_file=table.text("ca_file") if table.has("ca_file") else None,
        allow_keys_from=frozenset(hosts),
        offline_us=_offline_us(table),
        rules=tuple(
            _rule(_Table(f"{table.where}, rule {number}", rule, ISSUER_RULE_KEYS))
            for number, rule in enumerate(rules, start=1)
        ),
    )


def _url(table: _Table) -> str:
    expected = "the issuer's https address, exactly as in its tokens"
    url = table.text("url", expected)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise table.wrong("url", expected) from None
    encrypted = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not encrypted or not parts.hostname or "@" in parts.netloc or set("?# ") & set(url) or not url.isascii():
        raise table.wrong("url", f"{expected}, without user, query and fragment")
    return url


def _offline_us(table: _Table) -> int:
    if not table.has("offline_for"):
        return OFFLINE_US
    try:
        span_us = parse_duration(table.text("offline_for"))
    except DurationInvalid as error:
        raise IssuerInvalid(f"{table.where}: offline_for is {error.message}") from error
    if not 0 < span_us <= MAX_OFFLINE_US:
        raise table.wrong("offline_for", "more than 0s and at most 12h")
    return span_us


def _rule(table: _Table) -> PipelineRule:
    claims = table.claims("claims")
    if not any(_identifies(name, value) for name, value in claims.items()):
        raise IssuerInvalid(
            f"{table.where}: claims has nothing that identifies the pipeline for ever; expected a literal id, such as "
            "repository_id, repository_owner_id or project_id: names can be given to others"
        )
    try:
        globs = {name: parse_claim_glob(text) for name, text in table.claims("claims_glob").items()}
        repository = parse_repository_glob(table.text("repository", "a glob over repositories"))
    except GlobInvalid as error:
        raise IssuerInvalid(f"{table.where}: {error.message}") from error
    actions = _actions(table)
    tag = table.text("tag") if table.has("tag") else None
    also = table.texts("also", 'a list of tags, such as ["{git_tag_minor}", "latest"]')
    if tag is None and (also or table.has("strip_prefix")):
        raise IssuerInvalid(f"{table.where}: also and strip_prefix need tag, which is missing")
    if tag is not None and Action.DELETE in actions:
        raise IssuerInvalid(f"{table.where}: tag limits pushes, not deletes; expected delete in a rule without tag")
    for text in (*(() if tag is None else (tag,)), *also):
        _check_template(table.where, text)
    return PipelineRule(
        claims=claims,
        claims_glob=globs,
        repository=repository,
        actions=actions,
        tag=tag,
        strip_prefix=table.text("strip_prefix", default=""),
        also=also,
        allow_pull_request_target=table.flag("allow_pull_request_target"),
    )


def _identifies(name: str, value: str) -> bool:
    """Return whether no other organisation can get a token with this claim."""
    if name == "sub":
        return not value.startswith(_SUBJECTS_OF_NAMES)
    return name not in _NAMES | _CIRCUMSTANCES


def _actions(table: _Table) -> frozenset[Action]:
    names = table.texts("actions", f"a list of {', '.join(sorted(PIPELINE_ACTIONS))}")
    if not names or not {str(action) for action in PIPELINE_ACTIONS}.issuperset(names):
        raise table.wrong("actions", f"a list of {', '.join(sorted(PIPELINE_ACTIONS))}")
    return frozenset(Action(name) for name in names)


def _check_template(where: str, text: str) -> None:
    unknown = sorted(set(_PLACEHOLDER.findall(text)) - {"git_tag", "git_tag_minor"})
    try:
        Tag(_PLACEHOLDER.sub("1", text))
    except TagInvalid as error:
        raise IssuerInvalid(f"{where}: {quote(text)} gives no valid tag: {error.message}") from error
    if unknown:
        raise IssuerInvalid(f"{where}: {quote('{' + unknown[0] + '}')}; expected {{git_tag}} or {{git_tag_minor}}")
