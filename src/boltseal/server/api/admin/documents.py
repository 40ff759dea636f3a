"""The JSON documents of reads. Times are ISO 8601 in UTC, digests are whole, and a key without a value is null."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from boltseal.ledger.entry import Entry, EntryKind, format_time
from boltseal.oci.jsontext import DigestText, TimeText
from boltseal.policy.durations import format_duration
from boltseal.policy.grants import Action, Grant
from boltseal.policy.rules import Mode, Rule
from boltseal.server.api.admin.paging import Page
from boltseal.server.registry.tag_states import TagMode, mode_of
from boltseal.server.storage.metadata.tag_row import TagRow


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that the caller may pull."""

    name: str
    actions: Annotated[list[Action], Meta(description="What the caller may do there now.")]
    upstream: Annotated[str | None, Meta(description="The upstream that it mirrors; null for a local one.")]


class Repositories(Page, frozen=True, kw_only=True):
    """A page of repositories, sorted by name."""

    items: list[Repository]


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """What a tag is sealed at, for ever."""

    digest: DigestText
    time: TimeText
    by: str


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a tag."""

    name: str
    mode: Annotated[
        TagMode,
        Meta(
            description="`sealed`: resolves to one digest for ever. `mutable`: may move. `settling`: is sealed soon. `tombstone`: "
            "was sealed and deleted. `deleted`: was mutable and deleted."
        ),
    ]
    digest: Annotated[DigestText | None, Meta(description="What it resolves to; null for a deleted one.")]
    type: Annotated[str | None, Meta(description="The media type of that manifest.")]
    entry: Annotated[int, Meta(description="The index of its last ledger entry.")]
    changed: TimeText
    changed_by: str
    seal: Seal | None
    keep: Annotated[
        str | None,
        Meta(description="How long a seal protects the bytes: `forever`, days, or `deletable`; null without one."),
    ]
    keep_until: Annotated[
        TimeText | None, Meta(description="When that protection ends; of a settling tag, when it is sealed.")
    ]


class Tags(Page, frozen=True, kw_only=True):
    """A page of the tags of a repository, sorted by name."""

    repository: str
    items: list[Tag]


class TagAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A tag, and the rule that a push to it follows now."""

    repository: str
    tag: Tag
    rule: RuleInForce


class RuleInForce(msgspec.Struct, frozen=True, kw_only=True):
    """A rule. `number`: its position in the configuration, from 1; 0 for a built-in one."""

    number: int
    repository: Annotated[str, Meta(description="The glob of its repositories.")]
    tag: Annotated[str, Meta(description="The glob of its tags.")]
    mode: Mode
    keep: str
    settle: str | None
    require: Annotated[list[str], Meta(description="The evidence that an image needs for a tag; all of it.")]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The rule that decides about a push to a tag. `reason`: the rule in words."""

    repository: str
    tag: str
    rule: RuleInForce
    reason: str


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """All rules in the order in which they are tried."""

    items: list[RuleInForce]


class LedgerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a log. A text that does not apply is "", a number 0, and `previous` -1."""

    index: int
    kind: EntryKind
    time: TimeText
    repository: str
    tag: str
    digest: str
    type: str
    size: int
    was: str
    previous: int
    actor: str
    reason: str
    extra: dict[str, str]


class History(Page, frozen=True, kw_only=True):
    """A page of entries of a repository, or of one of its tags, the newest first. `size`: of the signed log."""

    size: int
    items: list[LedgerEntry]


class GrantInForce(msgspec.Struct, frozen=True, kw_only=True):
    """A grant. `users`: names, or `*` for every user. `groups`: of the identity provider, or `*` for all people there."""

    users: list[str]
    groups: list[str]
    repository: str
    actions: list[Action]


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """The grants in force. `anonymous_pull`: globs of the repositories that anonymous clients may pull."""

    items: list[GrantInForce]
    anonymous_pull: list[str]


class OwnToken(msgspec.Struct, frozen=True, kw_only=True):
    """The API token of a request. `ends`: when it stops to work, unless a person logs in before; at the latest `expires`."""

    id: str
    repositories: list[str]
    actions: list[str]
    expires: TimeText
    ends: TimeText


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """The caller. `user` null: anonymous. `operator`: has `admin` in every repository."""

    user: str | None
    operator: bool
    token: Annotated[OwnToken | None, Meta(description="The API token of the request; null: another login.")]


class UpstreamState(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream, and what is left of its pull limit, as it reported last."""

    name: str
    down_since: TimeText | None
    down_reason: str
    limit: Annotated[int | None, Meta(description="Pulls in `window_s` seconds; null: it reported no limit.")]
    remaining: int | None
    window_s: int | None
    source: Annotated[str | None, Meta(description="What it counts for, such as an address; null: it did not say.")]
    reported: Annotated[TimeText | None, Meta(description="When it reported the limit.")]
    reserve: Annotated[int, Meta(description="Pulls that are left to waiting clients.")]
    paused_until: Annotated[TimeText | None, Meta(description="It gets no request until then.")]
    pause_reason: str


class Upstreams(msgspec.Struct, frozen=True, kw_only=True):
    """All configured upstreams."""

    items: list[UpstreamState]


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A tag of an upstream whose new digest is held back. `served`: the digest that clients get; null for none."""

    repository: str
    tag: str
    digest: DigestText
    served: DigestText | None
    since: TimeText


class HeldTags(Page, frozen=True, kw_only=True):
    """A page of held tags, sorted by repository and tag."""

    items: list[Held]


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """The state of garbage collection."""

    undeleted_blobs: Annotated[int, Meta(description="Unreferenced blobs whose bytes the store failed to delete.")]
    full_since: Annotated[TimeText | None, Meta(description="When a full collection began that has not ended.")]
    full_stage: Annotated[str | None, Meta(description="What it compares now.")]


class RequestedRebuild(msgspec.Struct, frozen=True, kw_only=True):
    """The last request to rebuild an image whose base is outdated."""

    image: str
    base: str
    digest: Annotated[str, Meta(description="What the base resolved to, for which the rebuild was requested.")]
    time: TimeText
    outcome: Annotated[
        str,
        Meta(
            description="`asked`: it was requested. `done`, `failed`: how it ended. `stopped`: the server was stopped meanwhile."
        ),
    ]
    tries: int
    summary: Annotated[str, Meta(description="The last line of the command's output, or the answer of the webhook.")]


class RequestedRebuilds(Page, frozen=True, kw_only=True):
    """A page of requested rebuilds, sorted by image and base. The ledger has all requests: `history` with `rebuild.requested`."""

    items: list[RequestedRebuild]


class LogState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a log. `doubt`: why it takes no entries; null: it takes them."""

    name: str
    origin: str
    size: Annotated[int, Meta(description="Entries in the database.")]
    signed: Annotated[int, Meta(description="Entries that the newest checkpoint covers.")]
    witnessed: Annotated[int, Meta(description="Entries that the newest witnessed checkpoint covers.")]
    last: Annotated[TimeText | None, Meta(description="The time of the last entry.")]
    doubt: str | None


class LedgerState(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger and the log of observations, as far as they have begun."""

    items: list[LogState]


def tag_document(name: str, row: TagRow) -> Tag:
    """Return the document of a tag."""
    seal = None
    if row.sealed_digest is not None:
        seal = Seal(digest=str(row.sealed_digest), time=format_time(row.sealed_us or 0), by=row.sealed_by or "")
    return Tag(
        name=name,
        mode=mode_of(row),
        digest=None if row.digest is None else str(row.digest),
        type=row.media_type,
        entry=row.entry_index,
        changed=format_time(row.changed_us),
        changed_by=row.changed_by,
        seal=seal,
        keep=row.keep,
        keep_until=time_or_none(row.keep_until_us),
    )


def rule_document(rule: Rule) -> RuleInForce:
    """Return the document of a rule."""
    return RuleInForce(
        number=rule.number,
        repository=str(rule.repository),
        tag=str(rule.tag),
        mode=rule.mode,
        keep=str(rule.keep),
        settle=format_duration(rule.settle_us) if rule.settle_us else None,
        require=[str(each) for each in rule.require],
    )


def entry_document(index: int, entry: Entry) -> LedgerEntry:
    """Return the document of an entry."""
    return LedgerEntry(
        index=index,
        kind=entry.kind,
        time=format_time(entry.time_us),
        repository=entry.repository,
        tag=entry.tag,
        digest=entry.digest,
        type=entry.type,
        size=entry.size,
        was=entry.was,
        previous=entry.previous,
        actor=entry.actor,
        reason=entry.reason,
        extra=dict(entry.extra),
    )


def grant_document(grant: Grant) -> GrantInForce:
    """Return the document of a grant."""
    return GrantInForce(
        users=sorted(grant.users),
        groups=sorted(grant.groups),
        repository=str(grant.repository),
        actions=sorted(grant.actions),
    )


def time_or_none(time_us: int | None) -> str | None:
    """Return a time as text, or None."""
    return None if time_us is None else format_time(time_us)
