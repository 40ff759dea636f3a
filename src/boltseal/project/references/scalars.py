"""Parse a scalar that is a whole image reference. Pure."""

from __future__ import annotations

from typing import NamedTuple

from yaml.nodes import ScalarNode

from boltseal.errors import Invalid
from boltseal.oci.reference import Reference
from boltseal.project.image_references import EditRange, Format, ImageReference
from boltseal.project.references.yaml_nodes import content_end, span_of
from boltseal.project.source_files import SourceFile


class ParsedReference(NamedTuple):
    """A parsed reference, or the error message."""

    reference: Reference | None
    error: str | None


def parse_reference(text: str) -> ParsedReference:
    """Parse a reference as far as it is valid."""
    try:
        return ParsedReference(Reference.parse(text), None)
    except Invalid as error:
        return ParsedReference(None, error.message)


def digest_length(text: str) -> int:
    """Return the length of the digest at a reference's end, its `@` included; 0 if it has none."""
    return len(text) - text.find("@") if "@" in text else 0


def scalar_reference(
    source: SourceFile, node: ScalarNode, file_format: Format, where: str, *, prefix: str = ""
) -> ImageReference:
    """Return the image reference of a scalar that consists of `prefix` and a literal reference."""
    written = node.value.strip().removeprefix(prefix)
    resolved, why = parse_reference(written)
    span = span_of(source, node)
    end = content_end(source, node)
    return ImageReference(
        path=source.path,
        format=file_format,
        where=where,
        line=source.line(span.start),
        span=span,
        written=written,
        resolved=resolved,
        why=why,
        edit_range=None if resolved is None else EditRange(source.path, end - digest_length(written), end),
        override_only=why,
    )
