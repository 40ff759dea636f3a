"""Names, digests and media types against the specifications' grammars, with generated texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from boltseal.errors import Invalid
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.mediatype import MediaTypeInvalid, parse_content_type
from boltseal.oci.reference import NameInvalid, Reference, Repository, Tag, TagInvalid

T = TypeVar("T")

# distribution-spec, "Pulling manifests", letter by letter
SPEC_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
SPEC_REFERENCE = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
# image-spec, "Digests": the encoded part of the two registered algorithms
SPEC_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")
# RFC 6838, section 4.2
RFC_TYPE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9!#$&\-^_.+]{0,126}/[a-zA-Z0-9][a-zA-Z0-9!#$&\-^_.+]{0,126}")

# The characters of names, and others that must not be in a name.
CROWD = st.text(alphabet="ab0Z._-/:@%[] \t\n\x00\\~+é٣ſ\u212a\ud800", max_size=24)
WORDS = st.text("az09", min_size=1, max_size=4)
SEPARATORS = st.sampled_from([".", "_", "__", "-", "--", "-----", "/"])
names = st.builds(
    lambda first, more: first + "".join(separator + word for separator, word in more),
    WORDS,
    st.lists(st.tuples(SEPARATORS, WORDS), max_size=8),
)
tags = st.builds("".join, st.tuples(st.sampled_from("aZ0_"), st.text("aZ0_.-", max_size=127)))
digests = st.one_of(
    st.binary(min_size=32, max_size=32).map(lambda hashed: f"sha256:{hashed.hex()}"),
    st.binary(min_size=64, max_size=64).map(lambda hashed: f"sha512:{hashed.hex()}"),
)
labels = st.builds(
    "".join, st.tuples(st.sampled_from(["a", "Z", "0", "a-", "x--n"]), st.text("aZ09", min_size=1, max_size=3))
)
RESTRICTED = st.builds("".join, st.tuples(st.sampled_from("aZ0"), st.text("aZ0!#$&-^_.+", max_size=126)))
TYPES = st.builds("/".join, st.tuples(RESTRICTED, RESTRICTED))
ports = st.integers(0, 65535).map(lambda port: f":{port}")
hosts = st.one_of(
    st.sampled_from(["docker.io", "index.docker.io", "localhost", "[::1]", "[fc00:1::A]", "127.0.0.1"]),
    st.lists(labels, min_size=1, max_size=4).map(".".join),
    st.builds("".join, st.tuples(st.lists(labels, min_size=1, max_size=3).map(".".join), ports)),
    st.builds("".join, st.tuples(st.sampled_from(["[::1]", "localhost"]), ports)),
)


@given(st.one_of(names, CROWD))
def test_repositories_are_exactly_the_names_of_the_spec(text: str) -> None:
    """`<name>` MUST match the following regular expression; and many implementations limit it to 255 characters."""
    assert accepts(Repository, text, NameInvalid) is bool(SPEC_NAME.fullmatch(text))


@given(st.one_of(tags, CROWD))
def test_tags_are_exactly_the_tags_of_the_spec(text: str) -> None:
    """`<reference>` as a tag MUST be at most 128 characters in length and MUST match the following regular expression."""
    assert accepts(Tag, text, TagInvalid) is bool(SPEC_REFERENCE.fullmatch(text))


@given(st.one_of(digests, digests.map(str.upper), digests.map(lambda text: text[:-1]), CROWD))
def test_digests_are_exactly_the_digests_of_the_spec(text: str) -> None:
    """Implementations MUST support sha256, SHOULD support sha512; other algorithms can't be computed here."""
    assert accepts(Digest.parse, text, DigestInvalid) is bool(SPEC_DIGEST.fullmatch(text))


@given(digests)
def test_a_digest_reads_back(text: str) -> None:
    """A digest that is formatted and parsed is equal."""
    assert str(Digest.parse(text)) == text


@given(st.one_of(TYPES, CROWD, CROWD.map(lambda text: f"a/{text}")), CROWD)
def test_content_types_are_read_without_parameters_and_case(text: str, parameters: str) -> None:
    """Type and subtype are case-insensitive; parameters change nothing (RFC 9110, section 8.3.1)."""
    assume(";" not in text)
    named = text.strip(" \t")
    if RFC_TYPE.fullmatch(named):
        assert parse_content_type(f"{text};{parameters}") == named.lower()
    else:
        with pytest.raises(MediaTypeInvalid, match="is not a media type"):
            parse_content_type(text)


def accepts(read: Callable[[str], object], text: str, refusal: type[Invalid]) -> bool:
    """Return whether `read` accepts the text unchanged; a refusal must be of this class, printable, short and one line."""
    value, error_text = attempt(read, text, refusal)

    assert error_text.isprintable()
    assert len(error_text) < 400
    assert value is None or str(value) == text
    return value is not None


def attempt(read: Callable[[str], T], text: str, refusal: type[Invalid]) -> tuple[T | None, str]:
    """Return the parsed value and "", or None and the error message."""
    try:
        return read(text), ""
    except refusal as error:
        return None, error.message


# -- references, compared with a second implementation of Docker's rules

PART = SPEC_NAME.pattern
HOST = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
COMPLETE = re.compile(
    rf"(?P<host>(?:{HOST}(?:\.{HOST})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?)/(?P<name>{PART})"
    rf"(?::(?P<tag>{SPEC_REFERENCE.pattern}))?(?:@(?P<digest>{SPEC_DIGEST.pattern}))?"
)


def docker(text: str) -> tuple[str | None, ...] | None:
    """Return host, name, tag and digest as Docker completes them: complete first, then match as a whole."""
    if re.fullmatch("[a-f0-9]{64}", text):
        return None
    head = text.split("/")[0]
    is_host = "/" in text and (head == "localhost" or re.search("[.:]", head) is not None or head != head.lower())
    complete = text if is_host else f"docker.io/{text}"
    complete = re.sub(r"^index\.docker\.io/", "docker.io/", complete)
    complete = re.sub(r"^docker\.io/(?=[^/]*$)", "docker.io/library/", complete)
    match = COMPLETE.fullmatch(complete)
    if match is None or len(match["name"]) > 255:
        return None
    return match["host"], match["name"], match["tag"], match["digest"]


written = st.builds(
    lambda host, name, tag, digest: host + name + tag + digest,
    st.one_of(st.just(""), hosts.map(lambda host: f"{host}/")),
    names,
    st.one_of(st.just(""), tags.map(lambda tag: f":{tag}")),
    st.one_of(st.just(""), digests.map(lambda digest: f"@{digest}")),
)
spoiled = st.builds(
    lambda text, at, noise: text[: at % (len(text) + 1)] + noise + text[at % (len(text) + 1) :],
    written,
    st.integers(0, 400),
    CROWD.filter(lambda noise: 0 < len(noise) < 4),
)


@given(st.one_of(written, spoiled, CROWD))
@example("ubuntu")
@example("ouruser/sinatra:v2")
@example("192.168.0.1:80")
@example("localhost:5000")
@example("Docker/docker")
@example("docker.io/" + "a" * 64)
@example("a" * 64)
@example("library/" + "a" * 247)
@example("library/" + "a" * 248)
def test_references_are_read_as_docker_reads_them(text: str) -> None:
    """Each text is completed as Docker does it, or refused where Docker refuses it or finds no host."""
    reference, error_text = attempt(Reference.parse, text, Invalid)

    assert error_text.isprintable()
    assert (reference and parts(reference)) == docker(text)


def parts(reference: Reference) -> tuple[str | None, ...]:
    """Return host, name, tag and digest as text."""
    digest = None if reference.digest is None else str(reference.digest)
    return reference.registry, reference.repository, reference.tag, digest


@given(written)
def test_every_form_of_a_reference_is_parsed_as_itself(text: str) -> None:
    """The long and the familiar form of a reference are parsed as the same image, and the familiar one is never longer."""
    reference, _ = attempt(Reference.parse, text, Invalid)
    assume(reference is not None)
    assert reference is not None

    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar()) == reference
    assert len(reference.familiar()) <= len(str(reference))
