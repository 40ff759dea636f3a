"""The message of each refusal, line by line."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy import refusal_message
from boltseal.policy.refusal_message import SealedBinding, SomeTags, floating_rule
from boltseal.policy.requirements import MissingEvidence
from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import Mode, parse_rules

APP = Repository("shop/app")
OLD = Digest("sha256", "ab12cd34ef56" + "0" * 52)
NEW = Digest("sha256", "cd34ef56ab12" + "0" * 52)
SEALED = SealedBinding(OLD, 1_795_508_941_000_042, "ci", 1_795_708_941_000_042, "forever")


def bound(keep: str = "forever", by: str = "ci") -> SealedBinding:
    return SealedBinding(SEALED.digest, SEALED.since_us, by, SEALED.changed_us, keep)


def some(*names: str) -> SomeTags:
    return SomeTags.of(map(Tag, names))


def test_a_push_to_a_sealed_release() -> None:
    """The message has the present digest, its time and actor, the refused digest, and what to do."""

    assert refusal_message.put_sealed(Tag("1.4.2"), APP, bound(), NEW, "1.4.3") == (
        "tag 1.4.2 of shop/app is sealed at sha256:ab12cd34ef56 since 2026-11-24 by ci; "
        "this push is sha256:cd34ef56ab12; publish under a new tag (free: 1.4.3)"
    )


def test_a_tag_that_was_sealed_on_the_command_line_is_shown_with_that_actor() -> None:
    """An actor of the command line, whose name has spaces unlike users' names, is shown as such."""
    message = refusal_message.put_sealed(Tag("1.4.2"), APP, bound("forever", "root (command line)"), NEW, "1.4.3")

    assert " since 2026-11-24 by root (command line); " in message


def test_a_push_to_a_sealed_release_without_a_free_tag() -> None:
    """Without a known free tag, the message suggests none."""

    assert refusal_message.put_sealed(Tag("2026-11-24"), APP, bound("365d", ""), NEW, None) == (
        "tag 2026-11-24 of shop/app is sealed at sha256:ab12cd34ef56 since 2026-11-24 by an unknown user; "
        "this push is sha256:cd34ef56ab12; publish under a new tag"
    )


def test_a_push_to_a_sealed_tag_that_may_be_deleted() -> None:
    """After an unseal, or under a rule without keep, a push of another digest is refused, and a delete is possible."""

    assert refusal_message.put_sealed(Tag("1.4.2"), APP, bound("deletable"), NEW, "1.4.3") == (
        "tag 1.4.2 of shop/app is sealed at sha256:ab12cd34ef56 (it may be deleted, never moved) since 2026-11-24 by ci; "
        "this push is sha256:cd34ef56ab12; publish under a new tag (free: 1.4.3)"
    )


def test_a_push_to_a_sealed_tag_that_looks_mutable() -> None:
    """The message has the rule that makes such tags mutable, and says that this one stays sealed."""

    assert refusal_message.put_sealed(Tag("1.4-alpine"), APP, bound(), NEW, "1.5-alpine") == (
        "tag 1.4-alpine of shop/app is sealed at sha256:ab12cd34ef56 since 2026-11-24 by ci; "
        "this push is sha256:cd34ef56ab12; publish under a new tag (free: 1.5-alpine); 1.4-alpine stays sealed; "
        "this rule makes tags like it, not yet published, mutable (a line each): "
        '[[rule]], repository = "shop/app", tag = "[0-9].[0-9]-alpine", mode = "floating"'
    )


def test_a_push_to_a_sealed_name_without_a_version() -> None:
    """Tags such as `prod` are sealed unless a rule makes them mutable, which the message explains."""

    assert refusal_message.put_sealed(Tag("staging"), APP, bound(), NEW, None) == (
        "tag staging of shop/app is sealed at sha256:ab12cd34ef56 since 2026-11-24 by ci; "
        "this push is sha256:cd34ef56ab12; publish under a new tag; staging stays sealed; "
        "this rule makes tags like it, not yet published, mutable (a line each): "
        '[[rule]], tag = "staging", mode = "floating"'
    )


def test_a_push_of_another_part_of_the_image() -> None:
    """The client's habit is named, and what to do about it."""
    message = refusal_message.put_sealed(Tag("1.4.2"), APP, bound(), NEW, "1.4.3", part_of_image=True)

    assert message == (
        "tag 1.4.2 of shop/app is sealed at sha256:ab12cd34ef56 since 2026-11-24 by ci; this push is sha256:cd34ef56ab12; "
        "this client pushes every part of an image under its tag (Docker 23 to 26 with containerd's image store, ctr, "
        "nerdctl and `docker buildx imagetools` of that time do): use a newer client, or build with `--provenance=false`, "
        'or ask the operator for a rule with settle = "60s"; publish under a new tag (free: 1.4.3)'
    )


def test_a_push_to_a_settling_tag() -> None:
    """The time at which it is sealed, and the only push that it takes before."""
    settling = refusal_message.SettlingTag(bound().digest, "ci", bound().since_us)

    assert refusal_message.put_settling(Tag("1.4.2"), APP, settling, NEW) == (
        "tag 1.4.2 of shop/app is settling: ci pushed sha256:ab12cd34ef56, and until it is sealed (2026-11-24T08:29:01Z) "
        "only an index from ci that lists this digest may replace it; this push is sha256:cd34ef56ab12; "
        "publish under a new tag"
    )


def test_a_push_to_a_tombstone() -> None:
    """The message has the complete digest, with which the tag could be restored."""

    assert refusal_message.put_tombstone(Tag("1.4.2"), APP, bound(), NEW, "1.4.3") == (
        f"tag 1.4.2 of shop/app was deleted on 2026-11-26; the tag can return only with {OLD}; "
        "this push is sha256:cd34ef56ab12; publish under a new tag (free: 1.4.3)"
    )


def test_a_restore_of_a_sealed_tag() -> None:
    """A refused restore suggests no new tag, since nothing new is published."""

    assert refusal_message.restore_sealed(Tag("1.4.2"), APP, bound(), NEW) == (
        "tag 1.4.2 of shop/app is sealed at sha256:ab12cd34ef56 since 2026-11-24 by ci, and never resolves to another "
        "digest: it can't be restored to sha256:cd34ef56ab12"
    )


def test_a_restore_of_an_append_only_tag() -> None:
    """A restore of a former manifest is refused if later additions would be lost."""

    assert refusal_message.restore_not_extended(Tag("index"), APP, OLD, NEW) == (
        "tag index of shop/app is append-only, and sha256:cd34ef56ab12 lacks layers or entries of the manifest that the "
        "tag resolves to (sha256:ab12cd34ef56): it can't be restored"
    )


def test_a_push_that_would_lose_a_signature() -> None:
    """The message lists the missing layer and how to add a signature, with shortened digests."""

    assert refusal_message.not_extended(Tag(f"sha256-{OLD.hex}.sig"), APP, OLD, NEW) == (
        "tag sha256-ab12cd34ef56(...).sig of shop/app is append-only, and this push (sha256:cd34ef56ab12) lacks layers "
        "or entries of the manifest that the tag resolves to (sha256:ab12cd34ef56); fetch that, add to it, push again"
    )
    assert refusal_message.not_extended(Tag("sigs"), APP, OLD, NEW).startswith(
        "tag sigs of shop/app is append-only, and"
    )


@pytest.mark.parametrize(("keep", "words"), [("forever", "for ever"), ("365d", "for 365 days"), ("1d", "for 1 day")])
def test_a_delete_of_a_sealed_tag(keep: str, words: str) -> None:
    """The message names who can unseal the tag, and with which command."""

    assert refusal_message.delete_sealed_tag(Tag("1.4.2"), APP, bound(keep)) == (
        f"tag 1.4.2 of shop/app is sealed at sha256:ab12cd34ef56 since 2026-11-24 by ci and kept {words}; "
        "an admin can lift that protection with `boltseal tag unseal`"
    )


def test_a_delete_of_a_signature_tag() -> None:
    """A signature tag can't be deleted while the image that it signs is kept."""

    assert refusal_message.delete_signature_tag(Tag(f"sha256-{OLD.hex}.sig"), APP, some("1.4.2", "1.4.3")) == (
        "tag sha256-ab12cd34ef56(...).sig of shop/app refers to what tags 1.4.2 and 1.4.3 seal, "
        "and can't be deleted before that can"
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1.4.2"], "tag 1.4.2 seals"),
        (["1", "2"], "tags 1 and 2 seal"),
        (["1", "2", "3"], "tags 1, 2 and 3 seal"),
        (["1", "2", "3", "4"], "tags 1, 2, 3 and 1 more seal"),
        ([str(n) for n in range(100)], "tags 0, 1, 10 and 97 more seal"),
        ([f"{n:04}" for n in range(1000)], "tags 0000, 0001, 0002 and 997 more seal"),
        ([f"{n:04}" for n in range(1001)], "tags 0000, 0001, 0002 and more than 997 more seal"),
    ],
)
def test_a_delete_of_a_blob_that_seals_cover(names: list[str], words: str) -> None:
    """The message names at most three of the sealed tags and counts the others."""

    assert refusal_message.delete_protected("blob", OLD, APP, some(*names)) == (
        f"blob sha256:ab12cd34ef56 of shop/app is part of what {words}; "
        "an admin can lift that protection with `boltseal tag unseal`"
    )


def test_a_delete_of_a_manifest_that_tags_resolve_to() -> None:
    """The manifest's own tags are named first, since they are the reason."""

    assert refusal_message.delete_protected(
        "manifest", OLD, APP, some("1", "1.4.2", "2"), some("1.4.2"), some("latest")
    ) == (
        "manifest sha256:ab12cd34ef56 of shop/app is what tag 1.4.2 seals; "
        "an admin can lift that protection with `boltseal tag unseal`; tag latest alone can be deleted by its name"
    )


def test_a_delete_of_a_manifest_inside_a_sealed_index() -> None:
    """A manifest with a mutable tag of its own is protected by the seal of an index that contains it."""

    assert refusal_message.delete_protected("manifest", OLD, APP, some("1.4.2"), deletable=some("latest")) == (
        "manifest sha256:ab12cd34ef56 of shop/app is part of what tag 1.4.2 seals; "
        "an admin can lift that protection with `boltseal tag unseal`; tag latest alone can be deleted by its name"
    )


def test_a_delete_of_an_image_whose_tags_are_all_deletable() -> None:
    """If each tag of an image can be deleted, the message says to delete them first."""

    assert refusal_message.delete_protected(
        "manifest", OLD, APP, some("1.4.2"), some("1.4.2"), some("edge", "latest")
    ).endswith("with `boltseal tag unseal`; tags edge and latest alone can be deleted by their names")


def test_a_delete_of_another_users_referrer() -> None:
    """A signature on a sealed image can be deleted for a day, by its author only."""

    assert refusal_message.delete_referrer(OLD, APP, some("1.4.2")) == (
        "manifest sha256:ab12cd34ef56 of shop/app refers to what tag 1.4.2 seals; "
        "its pusher may delete it for 24 hours, an admin at any time"
    )


def test_a_delete_of_a_signature_that_names_no_subject() -> None:
    """For a signature without a subject, the message does not promise that it can be deleted."""

    assert refusal_message.delete_signature(OLD, APP, some("1.4.2")) == (
        "manifest sha256:ab12cd34ef56 of shop/app refers to what tag 1.4.2 seals, and can't be deleted before that can"
    )


@pytest.mark.parametrize(
    ("tag", "shape"),
    [
        ("1", "[0-9]"),
        ("1.4", "[0-9].[0-9]"),
        ("v2", "v[0-9]"),
        ("3.12", "[0-9].[0-9][0-9]"),
        ("1.4-alpine", "[0-9].[0-9]-alpine"),
        ("3.12-slim-bookworm", "[0-9].[0-9][0-9]-slim-bookworm"),
        ("1.4-alpine3.20", "[0-9].[0-9]-alpine[0-9].[0-9][0-9]"),
    ],
)
def test_the_suggested_rule_for_tags_that_move_by_custom(tag: str, shape: str) -> None:
    """The suggested rule can be parsed, makes tags of this form mutable here, and no release."""
    rule = floating_rule(Tag(tag), APP)
    assert rule is not None
    rules = parse_rules(tomllib.loads(rule.as_toml())["rule"])

    assert str(rule.tag) == shape
    assert decide(rules, APP, tag).mode is Mode.FLOATING
    assert decide(rules, "shop/other", tag).mode is Mode.SEALED
    assert decide(rules, APP, "1.4.2").mode is Mode.SEALED


@pytest.mark.parametrize(
    "tag", ["1.4.2", "v1.4.2", "20261124", "2026-11-24", "1.4-1", "sha-ab12cd3", "build-417", "1.4.2-rc.1"]
)
def test_no_rule_is_suggested_for_a_tag_that_looks_like_a_release(tag: str) -> None:
    """No rule is suggested for tags with three or more numbers, a date, a hash or a build number."""

    assert floating_rule(Tag(tag), APP) is None


@given(
    st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True).map(Tag),
    st.text(max_size=100),
    st.sampled_from(["forever", "deletable", "30d"]),
)
def test_a_line_is_one_line_of_printable_characters(tag: Tag, by: str, keep: str) -> None:
    """Whatever an actor's name has, the message is one line of printable characters, which docker shows."""
    for line in (
        refusal_message.put_sealed(tag, APP, bound(keep, by), NEW, None),
        refusal_message.put_tombstone(tag, APP, bound(keep, by), NEW, None),
        refusal_message.restore_sealed(tag, APP, bound(keep, by), NEW),
        refusal_message.delete_sealed_tag(tag, APP, bound("30d", by)),
    ):
        assert line.isascii()
        assert line.isprintable()
        assert len(line) < 1000


def test_an_unsigned_image_gets_no_tag() -> None:
    """The message has each requirement that is not met, why its evidence does not suffice, and each command once."""
    missing = [
        MissingEvidence("a signature by release.pub", "cosign sign --key release.key REGISTRY/shop/app", ""),
        MissingEvidence("a signature by qa.pub", "cosign sign --key release.key REGISTRY/shop/app", "of another image"),
    ]

    assert refusal_message.put_unsigned(Tag("1.4.2"), APP, NEW, missing) == (
        "tag 1.4.2 of shop/app is given only to signed images; sha256:cd34ef56ab12 lacks: a signature by release.pub; "
        "a signature by qa.pub (there is evidence, but of another image); push the image by digest, "
        "run cosign sign --key release.key REGISTRY/shop/app, then push the tag; `boltseal publish` does all of this"
    )
