"""The seal's rule: a sealed tag resolves to one manifest or to nothing, for any order of requests."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.oci.digest import Digest
from boltseal.policy.image_parts import Parts
from boltseal.policy.rules import Mode
from boltseal.policy.seal import UNUSED, Identity, PushDecision, TagState, judge

OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
A = Identity(Digest.of(b"a"), OCI)
B = Identity(Digest.of(b"b"), OCI)
A_AS_DOCKER = Identity(A.canonical, DOCKER)

FLOATS_AT_A = TagState(resolves_to=A, bound=None)
SEALED_AT_A = TagState(resolves_to=A, bound=A)
TOMBSTONE_OF_A = TagState(resolves_to=None, bound=A)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    ("state", "pushed", "verdict"),
    [
        (UNUSED, A, PushDecision.CREATE),
        (SEALED_AT_A, A, PushDecision.SAME),
        (SEALED_AT_A, B, PushDecision.REFUSED_BOUND),
        (SEALED_AT_A, A_AS_DOCKER, PushDecision.REFUSED_BOUND),
        (TOMBSTONE_OF_A, A, PushDecision.RETURN),
        (TOMBSTONE_OF_A, B, PushDecision.REFUSED_TOMBSTONE),
        (TOMBSTONE_OF_A, A_AS_DOCKER, PushDecision.REFUSED_TOMBSTONE),
    ],
)
def test_a_seal_is_independent_of_the_rules(
    mode: Mode, state: TagState, pushed: Identity, verdict: PushDecision
) -> None:
    """A later rule never unseals a tag; the same bytes under another media type are another manifest."""

    assert judge(state, pushed, mode, extends=True) is verdict


@pytest.mark.parametrize(
    ("mode", "pushed", "extends", "verdict"),
    [
        (Mode.SEALED, A, True, PushDecision.SEAL),
        (Mode.SEALED, B, True, PushDecision.MOVE_AND_SEAL),
        (Mode.FLOATING, A, True, PushDecision.SAME),
        (Mode.FLOATING, B, False, PushDecision.MOVE),
        (Mode.APPEND_ONLY, A, True, PushDecision.SAME),
        (Mode.APPEND_ONLY, B, True, PushDecision.MOVE),
        (Mode.APPEND_ONLY, B, False, PushDecision.REFUSED_NOT_EXTENDED),
    ],
)
def test_a_rule_decides_for_a_tag_that_is_not_sealed(
    mode: Mode, pushed: Identity, extends: bool, verdict: PushDecision
) -> None:
    """A mutable tag may become sealed at a push, and never the other way."""

    assert judge(FLOATS_AT_A, pushed, mode, extends=extends) is verdict


FROM_CI = TagState(resolves_to=A, bound=None, settling_by="ci")
INDEX_OF_A = Parts(settle=True, actor="ci", index=True, lists_current=True)
ATTESTATION = Parts(settle=True, actor="ci", attestation=True)


@pytest.mark.parametrize(
    ("state", "pushed", "parts", "verdict"),
    [
        (UNUSED, A, Parts(settle=True, actor="ci"), PushDecision.CREATE_SETTLING),
        (UNUSED, A, Parts(settle=True, actor="ci", index=True), PushDecision.CREATE),
        (UNUSED, A, ATTESTATION, PushDecision.PART),
        (FLOATS_AT_A, B, Parts(settle=True, actor="ci"), PushDecision.MOVE_SETTLING),
        (FLOATS_AT_A, B, Parts(settle=True, actor="ci", index=True), PushDecision.MOVE_AND_SEAL),
        (FLOATS_AT_A, A, ATTESTATION, PushDecision.SEAL),
        (FROM_CI, A, Parts(settle=True, actor="other"), PushDecision.SAME),
        (FROM_CI, B, INDEX_OF_A, PushDecision.MOVE_AND_SEAL),
        (FROM_CI, B, dataclasses.replace(INDEX_OF_A, settle=False), PushDecision.MOVE_AND_SEAL),
        (FROM_CI, B, dataclasses.replace(INDEX_OF_A, actor="other"), PushDecision.REFUSED_SETTLING),
        (FROM_CI, B, Parts(settle=True, actor="ci", index=True), PushDecision.REFUSED_SETTLING),
        (FROM_CI, B, Parts(settle=True, actor="ci"), PushDecision.REFUSED_SETTLING),
        (FROM_CI, B, ATTESTATION, PushDecision.PART),
        (FROM_CI, B, dataclasses.replace(ATTESTATION, actor="other"), PushDecision.REFUSED_SETTLING),
        (FROM_CI, B, Parts(settle=True, actor="ci", other_platform=True), PushDecision.PART),
        (FROM_CI, B, Parts(settle=True, actor="other", other_platform=True), PushDecision.REFUSED_SETTLING),
        (SEALED_AT_A, B, Parts(settle=True, in_current=True), PushDecision.PART),
        (SEALED_AT_A, B, Parts(in_current=True), PushDecision.REFUSED_BOUND),
        (SEALED_AT_A, B, INDEX_OF_A, PushDecision.REFUSED_BOUND),
        (SEALED_AT_A, B, ATTESTATION, PushDecision.REFUSED_BOUND),
        (TOMBSTONE_OF_A, B, Parts(settle=True, in_current=True), PushDecision.REFUSED_TOMBSTONE),
    ],
)
def test_a_tag_settles_until_the_index_of_its_user_arrives(
    state: TagState, pushed: Identity, parts: Parts, verdict: PushDecision
) -> None:
    """Only an index that lists the present manifest, from the user who pushed that, replaces it before it is sealed."""

    assert judge(state, pushed, Mode.SEALED, extends=True, parts=parts) is verdict


steps = st.one_of(
    st.just("delete"),
    st.tuples(st.sampled_from([A, B, A_AS_DOCKER]), st.sampled_from(Mode), st.booleans()),
)


@given(st.lists(steps, max_size=30))
def test_a_tag_that_was_ever_sealed_resolves_to_one_manifest(story: list[str | tuple[Identity, Mode, bool]]) -> None:
    """For any order of pushes, deletes and rule changes, a tag resolves after its first seal to that manifest or to
    nothing."""
    state = UNUSED
    for step in story:
        bound_before = state.bound
        if isinstance(step, str):
            state = dataclasses.replace(state, resolves_to=None)
        else:
            pushed, mode, extends = step
            verdict = judge(state, pushed, mode, extends=extends)
            if verdict not in (
                PushDecision.REFUSED_BOUND,
                PushDecision.REFUSED_TOMBSTONE,
                PushDecision.REFUSED_NOT_EXTENDED,
            ):
                sealing = mode is Mode.SEALED and verdict is not PushDecision.SAME
                state = TagState(pushed, state.bound or (pushed if sealing else None))

        assert bound_before in (None, state.bound)
        assert state.bound is None or state.resolves_to in (None, state.bound)
