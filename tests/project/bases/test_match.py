"""Finding an image's base by its layers."""

from __future__ import annotations

from boltseal.oci.reference import Reference
from boltseal.project.bases.layer_match import Candidate, inherits_label, longest_match, may_be_base
from tests.project.bases.samples import digest, facts

NODE = Reference.parse("node:16.13")


def candidate(layers: str, name: str = "", **more: object) -> Candidate:
    return Candidate(NODE, digest(f"index {layers} {name}"), facts(layers, name=name, **more))  # type: ignore[arg-type]


def test_a_base_that_lost_its_uppermost_layers_is_found() -> None:
    """Of all former images the longest match is the base, although the current image matches too."""
    was, now = candidate("abc"), candidate("ab")

    assert longest_match(facts("abcX"), [now, was]) == (was,)


def test_an_image_whose_layers_are_not_the_first_ones_is_no_base() -> None:
    """An image is a base only if the other begins with all its layers; common layers in the middle prove nothing."""
    assert longest_match(facts("abX"), [candidate("b"), candidate("ac"), candidate("abXY")]) == ()


def test_an_image_without_layers_proves_nothing() -> None:
    """An image without layers, with which every image begins, is no base."""
    assert longest_match(facts("abX"), [candidate("")]) == ()


def test_an_image_is_not_its_own_base() -> None:
    """An image is not reported as its own base, although its tag matches all layers."""
    image = facts("abX")

    assert not may_be_base(image, image)


def test_an_image_without_own_layers_has_its_bases_layers() -> None:
    """An image that adds only settings to its base, as by ENV, has the same layers and is found."""
    base = candidate("ab")

    assert longest_match(facts("ab", env={"A": "1"}, history=["a", "b", "ENV A=1"]), [base]) == (base,)


def test_of_equal_layers_the_history_decides() -> None:
    """Of bases with equal layers, the one whose history the image continues is the base."""
    was = candidate("ab", env={"V": "1"}, history=["a", "b", "ENV V=1"])
    now = candidate("ab", env={"V": "2"}, history=["a", "b", "ENV V=2"])
    image = facts("abX", env={"V": "1"}, history=["a", "b", "ENV V=1", "COPY x"])

    assert longest_match(image, [was, now]) == (was,)


def test_the_longer_history_is_the_nearer_base() -> None:
    """Of bases with equal layers, the one with the longer history is nearer."""
    plain = candidate("ab", history=["a", "b"])
    more = candidate("ab", name="more", history=["a", "b", "ENV V=1"])
    image = facts("abX", history=["a", "b", "ENV V=1", "COPY x"])

    assert longest_match(image, [plain, more]) == (more,)


def test_without_a_history_all_candidates_are_returned() -> None:
    """Without a history, all candidates are returned."""
    one, other = candidate("ab", "one", history=["p"]), candidate("ab", "other", history=["q"])

    assert longest_match(facts("abX", history=["r"]), [one, other]) == (one, other)


def test_a_label_that_the_base_has_too_is_inherited() -> None:
    """A label that the base has as well is inherited from it, and does not name the image's own base."""
    base = facts("ab", labels={"l": "v"})

    assert inherits_label(facts("abX", labels={"l": "v"}), "l", base)
    assert not inherits_label(facts("abX", labels={"l": "w"}), "l", base)
    assert not inherits_label(facts("abX"), "l", base)
