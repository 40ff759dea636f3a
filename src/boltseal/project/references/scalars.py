"""Parse a scalar that is a whole image reference. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple

from boltseal.errors import Invalid
from boltseal.oci.reference import Reference
from boltseal.project.image_references import EditRange, ImageReference, Span
from boltseal.project.references.image_shape import is_image_id
from boltseal.project.references.yaml_nodes import span_of
from boltseal.project.references.yaml_tree import ScalarNode
from boltseal.project.source_files import SourceFile

CACHED_TEXTS: Final = 1024
LOCAL_ID: Final = "it is the ID of a local image, which no registry resolves"


class ParsedReference(NamedTuple):
    """A parsed reference, or the error message."""

    reference: Reference | None
    error: str | None


@lru_cache(maxsize=CACHED_TEXTS)  # a project names most of its images several times: one value in memory for all
def parse_reference(text: str) -> ParsedReference:
    """Parse a reference as far as it is valid. The ID of a local image is none."""
    if is_image_id(text):
        return ParsedReference(None, LOCAL_ID)
    try:
        return ParsedReference(Reference.parse(text), None)
    except Invalid as error:
        return ParsedReference(None, error.message)


def digest_length(text: str) -> int:
    """Return the length of the digest at a reference's end, its `@` included; 0 if it has none."""
    return len(text) - text.find("@") if "@" in text else 0


def template_reference(
    source: SourceFile,
    node: ScalarNode,
    file_format: str,
    where: str,
    expression: re.Pattern[str],
    why: str,
    *,
    prefix: str = "",
) -> ImageReference:
    """Return the image reference of a scalar; an unresolved one if it contains an expression, for the reason `why`."""
    image_ref = scalar_reference(source, node, file_format, where, prefix=prefix)
    if expression.search(node.value):
        return replace(image_ref, resolved=None, why=why, edit_range=None, override_only=why)
    return image_ref


def text_reference(
    source: SourceFile, span: Span, file_format: str, where: str, *, why: str | None = None, prefix: str = ""
) -> ImageReference:
    """Return the image reference of a range of the text. `why`: the reason why it is not resolved."""
    span = Span(span.start + len(prefix), span.end) if source.text.startswith(prefix, span.start) else span
    return _reference(source, span, file_format, where, source.text[span.start : span.end], why)


def scalar_reference(
    source: SourceFile, node: ScalarNode, file_format: str, where: str, *, prefix: str = ""
) -> ImageReference:
    """Return the image reference of a scalar that consists of `prefix` and a literal reference."""
    return _reference(source, span_of(source, node), file_format, where, node.value.strip().removeprefix(prefix))


def _reference(
    source: SourceFile, span: Span, file_format: str, where: str, written: str, why: str | None = None
) -> ImageReference:
    """Return the image reference that is `written` in a range, whose digest is at the end of it."""
    resolved, error = (None, why) if why is not None else parse_reference(written)
    digest = EditRange(source.path, span.end - digest_length(written), span.end)
    return ImageReference(
        path=source.path,
        format=file_format,
        where=where,
        line=source.line(span.start),
        span=span,
        written=written,
        resolved=resolved,
        why=error,
        edit_range=None if resolved is None else digest,
        override_only=error,
    )
