"""Which keys name images, and which texts look like image references. Pure.

Used for the account of a scan (`project.account`) and for resources of unknown kinds. docs/reference/image-keys.md
documents these tables.
"""

from __future__ import annotations

import re
from typing import Final

from boltseal.errors import Invalid
from boltseal.oci.reference import Reference

IMAGE_KEY: Final = re.compile(
    r"(?:.*[^A-Za-z])?images?"  # image, base_image, x.image
    r"|(?:.*[^A-Za-z])?image[_-]?(?:name|ref|reference|uri|repo|repository)"  # image_name
    r"|.*[a-z0-9]Images?"  # baseImage
    r"|(?:.*[a-z0-9]I|i)mage(?:Name|Ref|Reference|Uri|URI|Repo|Repository)"  # imageName
    r"|Image(?:Uri|URI|Name)?"
    r"|(?:.*[^A-Z])?IMAGES?(?:_(?:NAME|REF|URI|REPO|REPOSITORY|\d+))?|(?:.*_)?IMG"  # RUNNER_IMAGE
    r"|(?:[A-Z0-9_]*_)?IMAGE_[A-Z0-9_]+"  # RELATED_IMAGE_PROXY
    r"|image\d+",
)
"""Keys whose values are images: whole key names."""

IMAGE_HINT: Final = re.compile(r"[iI][mM][aA]?[gG]|epository|\\")
"""What the text of a mapping with such a key contains, perhaps escaped. Begins with a character class for speed."""

IMAGE_ARGUMENT: Final = re.compile(
    r"(?:-{0,2}[a-z0-9_-]*image[a-z0-9_-]*|[A-Z0-9_]*IMAGE[A-Z0-9_]*)=(?P<value>\S+)", re.DOTALL
)
"""A text that gives an image to a program: `--sidecar-image=...`, `image=...`, or `RUNNER_IMAGE=...` in a list of variables."""

FILE_EXTENSIONS: Final = frozenset(
    """
    7z ami avi avif bin bmp bz2 c cc cfg conf cpp cr2 css csv deb dll dmg dockerfile dng doc docx drawio elf eot eps exe
    gif go gz h heic html ico img iso java jpeg jpg js json jsx jxl key log lz4 m4v md mdx mkv mov mp4 mpeg mpg ova pdf
    php png ps psd py qcow2 raw rb rpm rs rst sh sql squashfs svg swf sys tar tga tgz tif tiff toml ts tsx ttf txt vdi
    vhd vhdx vmdk vmlinuz webm webp wim woff woff2 xcf xhtml xml xz yaml yml zip zst
    """.split()  # noqa: SIM905 - a list of this length is easier to read as a text
)
"""A value whose last part ends in one of these names a file, unless it has a tag or digest."""

PLACEHOLDERS: Final = frozenset(
    {
        "bar",
        "baz",
        "changeme",
        "dummy",
        "example",
        "fake",
        "foo",
        "image",
        "mock",
        "name",
        "none",
        "placeholder",
        "string",
        "todo",
    }
)
"""Single words that stand for no image in test data and schemas. Docker Hub has no official image of these names."""

PREFIXES: Final = ("docker://", "docker-image://")
_EXPRESSION: Final = re.compile(
    r"\$?\{\{.*?\}\}|\$\[\[.*?\]\]|\[\[.*?\]\]|<<.*?>>|<%.*?%>|\{%.*?%\}|\$\{[^{}]*\}|\$\([^()]*\)|\$[A-Za-z_]\w*"
    r"|%\{.*?\}|%\([A-Za-z_]\w*\)s|\{[A-Za-z_][\w.]*\}|@[A-Z_]+@|%[A-Z_]+%",
    re.DOTALL,
)
_NO_IMAGE: Final = re.compile(
    r"(?:.*/)?(?:images?/family|global/images?|gallery|galleries|Microsoft\.Compute)/.*"
    r"|(?:linux|windows)/(?:386|amd64|arm|arm64|loong64|mips64le|ppc64le|riscv64|s390x)(?:/v[0-9])?",
    re.IGNORECASE,
)
_ID: Final = re.compile(r"sha(?:256|384|512):[a-f0-9]{7,}")
_MAX: Final = 500


def names_image(key: str) -> bool:
    """Return whether a key has an image as its value."""
    return (
        len(key) <= _MAX and ("mage" in key or "MAGE" in key or "IMG" in key) and IMAGE_KEY.fullmatch(key) is not None
    )


def is_reference_text(text: str) -> bool:
    """Return whether a literal text is an image reference that can't easily be another text.

    It has a tag, a digest or a path, and no file extension.
    """
    if not text or len(text) > _MAX or _NO_IMAGE.fullmatch(text) or is_image_id(text):
        return False
    try:
        reference = Reference.parse(text)
    except Invalid:
        return False
    if reference.digest is not None:
        return True
    if reference.tag is not None:
        return re.search("[a-z]", text.rpartition(":")[0]) is not None  # `1280:720` is a size
    _, dot, extension = text.rpartition("/")[2].rpartition(".")
    return "/" in text and not (dot and extension in FILE_EXTENSIONS)


def is_image_id(text: str) -> bool:
    """Return whether a text is the ID of a local image (`sha256:...`), which no registry resolves."""
    return _ID.fullmatch(text) is not None


def argument_of(text: str) -> str | None:
    """Return the image in a text such as `--sidecar-image=...`, or None."""
    match = IMAGE_ARGUMENT.fullmatch(text) if "=" in text and len(text) <= 2 * _MAX else None
    return None if match is None else match["value"].strip("\"'")


def looks_like_image(text: str) -> bool:
    """Return whether a text is such a reference, or becomes one with its expressions (`${TAG}`, `{{ tag }}`) filled in."""
    text = text.strip()
    if len(text) > _MAX:
        return False
    for prefix in PREFIXES:
        text = text.removeprefix(prefix)
    filled, count = _EXPRESSION.subn("0", text)
    if count and re.search("[a-z]", _EXPRESSION.sub("", text)) is None:
        return False  # nothing but expressions: their values are elsewhere
    if count and filled.startswith("0/"):
        filled = f"h.example{filled[1:]}"
    return is_reference_text(filled)


def is_word(text: str) -> bool:
    """Return whether a text is a reference without tag and path, such as `nginx`, and no placeholder."""
    try:
        reference = Reference.parse(text)
    except Invalid:
        return False
    return (
        "/" not in text
        and reference.tag is None
        and text not in PLACEHOLDERS
        and text not in ("true", "false")
        and bool(re.search("[a-z]", text))
    )
