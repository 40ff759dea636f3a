"""In any generated file, pinning changes only image texts, and unpinning restores the bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from boltseal.project.image_references import ImageReference
from tests.project.projects import DATA, digest_of, found_in, pinned, put, trap, unpinned, written

IMAGES = st.sampled_from(
    ("nginx", "nginx:1.2", "nginx:1.25", "redis:7.2-alpine", "registry.example.com:5000/shop/app:1.4.2", "a/b_c:x")
)
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
SPACE = st.sampled_from(("", "  ", "\t", " # image: nginx:1.25", " # 🚀 é"))


@st.composite
def scalars(draw: st.DrawFn, image: str) -> str:
    """Draw a form in which YAML can write a text, after a key at `indent`, with its line end."""
    default = draw(st.sampled_from(("${X:-%s}", "${X-%s}", "${A:-${B:-%s}}", "%s")))
    text = default % image
    space = draw(SPACE)
    anchor = draw(st.sampled_from(("", "!!str ", "&{} ")))
    return draw(
        st.sampled_from(
            (
                f' {anchor}"{text}"{space}',
                f" {anchor}'{text}'{space}",
                f" {anchor}{text}{space}",
                f" {anchor}>-\n      {text}",
                f" {anchor}|\n      {text}\n",
                f"\n      {text}{space}",
            )
        )
    )


@st.composite
def compose_files(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Draw a Compose file and its images."""
    images = draw(st.lists(IMAGES, min_size=1, max_size=5))
    lines = [draw(st.sampled_from(("# image: redis:7.2", "name: x", "x-a: {image: redis:7.2}"))), "services:"]
    for number, image in enumerate(images):
        noise = yaml.dump(draw(st.dictionaries(PLAIN, PLAIN, max_size=2)), default_flow_style=True, width=10**6).strip()
        before, behind = f"    environment: {noise}", f"    command: |\n      image: {image}\n      FROM {image}"
        lines.append(f"  s{number}:{draw(SPACE)}")
        lines += [before] if draw(st.booleans()) else []
        lines.append("    image:" + draw(scalars(image)).replace("&{}", f"&a{number}"))
        lines += [behind] if draw(st.booleans()) else []
    text = draw(st.sampled_from(("\n", "\r\n"))).join("\n".join(lines).split("\n"))
    return draw(st.sampled_from(("", "\ufeff"))) + text + draw(st.sampled_from(("", "\n"))), images


@given(made=compose_files())
@pytest.mark.slow
def test_in_compose_files_only_images_change_and_are_restored(made: tuple[str, list[str]]) -> None:
    """In generated Compose files, quotes, blocks, anchors, comments, line ends and defaults stay, and unpinning
    restores all."""
    text, images = made
    with tempfile.TemporaryDirectory() as folder:
        root = written(Path(folder), {"compose.yml": text})
        image_refs = found_in(root).image_refs
        edited = pinned(root)
        put(root, edited)
        after = (root / "compose.yml").read_bytes()
        put(root, unpinned(root))

        assert [image_ref.resolved.familiar() for image_ref in image_refs if image_ref.resolved] == images
        assert edited.refusals == ()
        assert _loaded(after.decode("utf-8-sig")) == _expected(_loaded(text.removeprefix("\ufeff")), image_refs)
        assert (root / "compose.yml").read_bytes() == text.encode()


@st.composite
def dockerfiles(draw: st.DrawFn) -> str:
    """Draw a Dockerfile with arbitrary text around its images."""
    parts = [draw(st.sampled_from(("", "# syntax=docker/dockerfile:1\n", "# escape=`\n", "# a comment\n")))]
    escape = "`" if "escape" in parts[0] else "\\"
    for number in range(draw(st.integers(1, 4))):
        image = draw(IMAGES)
        parts.append(
            draw(
                st.sampled_from(
                    (
                        f"FROM {image} AS s{number}\n",
                        f"from --platform=linux/amd64   {image}\t\n",
                        f"FROM {escape}\n  # a comment\n\n  {image} {escape}\n AS s{number}\n",
                        f"FROM scratch\nCOPY --from={image} /a /b\n",
                        f"FROM scratch\nRUN --mount=type=bind,from={image},target=/x ls\n",
                        f"FROM scratch\nRUN <<EOF\nFROM {image}\nEOF\n",
                        f"FROM scratch\nCOPY <<-'A' <<B /x\nFROM {image}\n\tA\nFROM {image}\nB\n",
                        f"FROM ${{V:-{image}}}\n",
                        f'FROM scratch\nRUN echo "FROM {image}" {escape}\n  FROM {image}\n',
                    )
                )
            )
        )
    return draw(st.sampled_from(("\n", "\r\n"))).join("".join(parts).split("\n"))


@given(text=dockerfiles())
def test_in_dockerfiles_only_images_change_and_are_restored(text: str) -> None:
    """In generated Dockerfiles, each edit appends one digest to one image outside of scripts."""
    with tempfile.TemporaryDirectory() as folder:
        root = written(Path(folder), {"Dockerfile": text})
        image_refs = [image_ref for image_ref in found_in(root).image_refs if image_ref.edit_range]
        edited = pinned(root)
        put(root, edited)
        after = (root / "Dockerfile").read_bytes().decode()
        put(root, unpinned(root))

        assert edited.refusals == ()
        assert after == _spliced(text, image_refs)
        assert after.count("@sha256:") == len(image_refs)
        assert (root / "Dockerfile").read_bytes() == text.encode()


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.iterdir()))
def test_every_trap_is_pinned_once_and_restored(name: str, tmp_path: Path) -> None:
    """Pinning a trap file twice changes nothing more, and unpinning restores the bytes if nothing was pinned."""
    root = trap(name, tmp_path)
    before = _bytes(root)
    pinned_before = any(image_ref.pinned for image_ref in found_in(root).image_refs)
    put(root, pinned(root))
    again = pinned(root)
    put(root, unpinned(root))

    assert again.changes == ()
    assert pinned_before or _bytes(root) == before


def _bytes(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _loaded(text: str) -> Any:
    return yaml.load(text, Loader=yaml.CSafeLoader)


def _expected(loaded: Any, image_refs: tuple[ImageReference, ...]) -> Any:
    """Return the expected document: each service's image with the digest appended to its reference."""
    for image_ref in image_refs:
        service = loaded["services"][image_ref.where.split(".")[1]]
        plain = str(image_ref.unpinned.familiar()) if image_ref.unpinned else ""
        head, found, tail = service["image"].rpartition(plain)
        assert found
        service["image"] = f"{head}{found}@{digest_of(image_ref)}{tail}"
    return loaded


def _spliced(text: str, image_refs: list[ImageReference]) -> str:
    """Return the text with each reference's digest inserted at its position."""
    for image_ref in sorted(image_refs, key=lambda image_ref: image_ref.span, reverse=True):
        plain = str(image_ref.unpinned.familiar()) if image_ref.unpinned else ""
        at = text.index(plain, image_ref.span[0]) + len(plain)
        assert at <= image_ref.span[1]
        text = f"{text[:at]}@{digest_of(image_ref)}{text[at:]}"
    return text
