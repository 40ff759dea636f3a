"""Texts of files as references, or the sentence that says why they are none; a plain scalar as a site. Pure."""

from __future__ import annotations

from yaml.nodes import ScalarNode

from boltseal.errors import Invalid
from boltseal.oci.reference import Reference
from boltseal.project.image_references import EditRange, Format, ImageReference
from boltseal.project.references.yaml_nodes import content_end, span_of
from boltseal.project.source_files import SourceFile


def parsed(text: str) -> tuple[Reference | None, str | None]:
    """The reference that a text is, or why it is none."""
    try:
        return Reference.parse(text), None
    except Invalid as error:
        return None, error.message


def digest_length(text: str) -> int:
    """How many characters at the end of a reference are its digest, the @ included."""
    return len(text) - text.find("@") if "@" in text else 0


def scalar_site(source: SourceFile, node: ScalarNode, kind: Format, where: str, *, prefix: str = "") -> ImageReference:
    """A scalar that holds a whole reference, as it stands, behind `prefix`."""
    written = node.value.strip().removeprefix(prefix)
    resolved, why = parsed(written)
    span = span_of(source, node)
    end = content_end(source, node)
    return ImageReference(
        path=source.path,
        format=kind,
        where=where,
        line=source.line(span[0]),
        span=span,
        written=written,
        resolved=resolved,
        why=why,
        edit_range=None if resolved is None else EditRange(source.path, end - digest_length(written), end),
        override_only=why,
    )
