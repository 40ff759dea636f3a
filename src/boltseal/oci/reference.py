"""Image references: `Repository`, `Tag`, and `Reference`, which is written `registry/repository:tag@digest`.

`Repository` and `Tag` are strings that match the grammar of the distribution spec ("Pulling manifests"), so functions
that take them need no further check. `Reference.parse` accepts what Docker accepts and completes it as Docker does, so
that a text refers to the same image in every tool:

    ubuntu                    -> docker.io/library/ubuntu
    ouruser/sinatra:v2        -> docker.io/ouruser/sinatra:v2
    localhost/app             -> localhost/app            (a first part is a host if it is "localhost",
    localhost:5000/app        -> localhost:5000/app        has a "." or ":", or an upper-case letter)
    index.docker.io/ubuntu    -> docker.io/library/ubuntu (the hub's old name)

There are two differences from Docker. A first part that has a "." or ":" but is no valid host is refused; Docker takes it
for a path without a host. `familiar` does not shorten a reference when the short text would be parsed as another one.
`parse` never adds a tag: `latest` is the caller's decision.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

from boltseal.errors import ErrorCode, Invalid, quote
from boltseal.oci.digest import Digest, DigestInvalid

MAX_REPOSITORY_BYTES: Final = 255
MAX_TAG_BYTES: Final = 128
HUB: Final = "docker.io"

HUB_ALIAS: Final = "index.docker.io"
_LIBRARY: Final = "library/"

_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_is_repository: Final = re.compile(rf"{_PART}(?:/{_PART})*").fullmatch
_is_tag: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}").fullmatch

_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_is_host: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?").fullmatch
_is_shortened: Final = re.compile(r"(?:sha256:)?[a-f0-9]{7,63}|sha512:[a-f0-9]{7,127}").fullmatch
_is_image_id: Final = re.compile(r"(?:sha256:)?[a-f0-9]{64}").fullmatch


class NameInvalid(Invalid):
    """A repository or registry name outside the grammar."""

    code: ClassVar[ErrorCode] = ErrorCode.NAME_INVALID


class TagInvalid(Invalid):
    """A tag outside the grammar. The spec has no error code for it; its conformance tests expect this one."""

    code: ClassVar[ErrorCode] = ErrorCode.MANIFEST_INVALID


class Repository(str):
    """A repository name without the registry, such as `shop/app`; at most 255 bytes."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if len(text) > MAX_REPOSITORY_BYTES or _is_repository(text) is None:
            raise NameInvalid(_wrong_repository(text))
        return str.__new__(cls, text)


class Tag(str):
    """A tag, such as `1.4.2`; at most 128 characters."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if _is_tag(text) is None:
            raise TagInvalid(_wrong_tag(text))
        return str.__new__(cls, text)


@dataclass(frozen=True, slots=True)
class Reference:
    """A complete image reference: registry, repository, and optionally a tag, a digest, or both."""

    registry: str
    repository: Repository
    tag: Tag | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if _is_host(self.registry) is None:
            raise NameInvalid(f"{quote(self.registry)} is not a registry; expected host or host:port")
        if self.registry == HUB_ALIAS or (self.registry == HUB and "/" not in self.repository):
            raise NameInvalid(
                f"{self.registry}/{self.repository} is not complete; parse the text, which completes it as Docker does"
            )

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference as users type it, and complete it. Raises: NameInvalid, TagInvalid, DigestInvalid."""
        if is_image_id(text):
            raise NameInvalid(f"{quote(text)} is an image ID, not a name; write NAME@sha256:... for a digest")
        if "://" in text:
            raise NameInvalid(
                f"{quote(text)} is a URL; an image reference has no scheme, such as localhost:5000/shop/app:1.4.2"
            )
        named, at, digest = text.partition("@")
        if at and _is_shortened(digest):
            raise DigestInvalid(_shortened(named, digest))
        registry, rest = _split_host(named)
        repository, colon, tag = rest.partition(":")
        if registry == HUB:
            Repository(
                repository.removeprefix(_LIBRARY)
            )  # so that an error quotes the typed name, without what Docker adds
        return cls(
            registry,
            Repository(repository),
            Tag(tag) if colon else None,
            Digest.parse(digest) if at else None,
        )

    @property
    def name(self) -> str:
        """The registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def complete(self) -> Reference:
        """Return this reference with the tag `latest` if it has neither a tag nor a digest, as Docker completes it."""
        return self if self.tag is not None or self.digest is not None else replace(self, tag=Tag("latest"))

    @property
    def by_tag(self) -> Reference:
        """Return this reference with its tag (default: `latest`) and without its digest."""
        return replace(self, tag=self.tag or Tag("latest"), digest=None)

    def familiar(self) -> str:
        """Return the shortest text that is parsed as this reference, if possible without docker.io and library/."""
        if self.registry != HUB:
            return str(self)
        name = self.repository.removeprefix(_LIBRARY)
        for short in (name, str(self.repository)):
            if _split_host(short) == (HUB, self.repository) and not is_image_id(short + self._suffix()):
                return short + self._suffix()
        return str(self)

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return f"{tag}@{self.digest}" if self.digest is not None else tag

    def __str__(self) -> str:
        return self.name + self._suffix()


def is_image_id(text: str) -> bool:
    """Return whether Docker takes a text for the ID of an image on this machine: 64 hex digits, perhaps with sha256:."""
    return _is_image_id(text) is not None


def _split_host(text: str) -> tuple[str, str]:
    """Split off the registry by Docker's rule on the first part, and complete the hub's short names."""
    first, slash, rest = text.partition("/")
    if not slash:
        return HUB, _LIBRARY + text
    if first == HUB_ALIAS:
        first = HUB
    elif first != "localhost" and "." not in first and ":" not in first and first == first.lower():
        return HUB, text
    if first == HUB and "/" not in rest:
        rest = _LIBRARY + rest
    return first, rest


def _wrong_repository(text: str) -> str:
    if len(text) > MAX_REPOSITORY_BYTES:
        return f"a repository name has at most {MAX_REPOSITORY_BYTES} characters; got {len(text)}: {quote(text)}"
    if not text:
        return "a repository name is missing; expected lower-case parts joined by /, such as shop/app"
    if text != text.lower() and _is_repository(text.lower()):
        return f"repository name {quote(text)} must be lower-case; try {quote(text.lower())}"
    return (
        f"{quote(text)} is not a repository name; expected lower-case letters and digits in parts joined by /, "
        "with single . _ __ or any number of - only inside a part, such as shop/app"
    )


def _shortened(named: str, digest: str) -> str:
    return (
        f"{quote(digest)} is the beginning of a digest; an image reference needs all of its digits, since an attacker can "
        f"make another image with the same first ones; `boltseal history {named}` and `boltseal digest {named}` print them"
    )


def _wrong_tag(text: str) -> str:
    if len(text) > MAX_TAG_BYTES:
        return f"a tag has at most {MAX_TAG_BYTES} characters; got {len(text)}: {quote(text)}"
    return (
        f"{quote(text)} is not a tag; expected 1 to {MAX_TAG_BYTES} of letters, digits, _ . and -, "
        "the first neither . nor -, such as 1.4.2"
    )
