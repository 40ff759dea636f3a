"""`boltseal rebase`: replace an image's base without a build."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.build.tag_template import Scheme
from boltseal.cli.build_options import SeparatorOption
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, print_wrapped, say
from boltseal.cli.progress import Progress
from boltseal.cli.project_options import AllowOption
from boltseal.cli.remote import RemoteRefArgument, takes_registry_options
from boltseal.commands.rebase import PlatformRow, RebaseReport, RebaseRequest
from boltseal.commands.rebase import rebase as rebase_image
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.tag_revisions import DOT, parse_separator

OntoOption = Annotated[
    str, typer.Option("--onto", metavar="IMAGE", show_default=False, help="The new base, by its tag.")
]
OldBaseOption = Annotated[
    str | None,
    typer.Option("--base", metavar="IMAGE", show_default=False, help="The old base: NAME@sha256:...; default: found."),
]
TagOption = Annotated[
    str | None,
    typer.Option("--tag", metavar="TAG", show_default=False, help="The new tag, in the same repository."),
]
SchemeOption = Annotated[
    Scheme | None, typer.Option("--scheme", show_default=False, help="revision: the next one of the image's tag.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only check and show whether it can be done.")]


@takes_registry_options
def rebase(
    image: RemoteRefArgument,
    onto: OntoOption,
    base: OldBaseOption = None,
    tag: TagOption = None,
    scheme: SchemeOption = None,
    separator: SeparatorOption = DOT,
    dry_run: DryRunOption = False,
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Replace the base of an image without a build, if that is safe.

    Puts the layers that the image added to its base on the new base, and pushes the result under a new tag, such as the next
    revision of a sealed one (--scheme revision: 1.4.2.1). Settings that the image inherited become those of the new base.
    It is for images without sources; otherwise build.

    Refused, if the image's layers change what the new base changed too: files, package databases; or if the
    distribution, its major version or the C library do not match. Exit code 1: refused; 3: could not be checked.
    """
    with CommandOutput("rebase", as_json=as_json) as output, Progress() as progress:
        if scheme not in (None, Scheme.REVISION):
            raise Invalid(f"--scheme {scheme}: a rebase has no sources; use --scheme revision, or give a --tag")
        request = RebaseRequest(
            Reference.parse(image),
            Reference.parse(onto),
            None if base is None else Reference.parse(base),
            None if tag is None else Tag(tag),
            None if scheme is None else parse_separator(separator),
            dry_run,
            tuple(allow or ()),
        )
        report = rebase_image(request, access, progress)
        output.outcome = report.outcome
        for row in report.rows:
            _print_row(output, report, row)
        for note in report.notes:
            say(clean(f"boltseal: {note}"))
        if report.digest is not None and not dry_run:
            output.print(f"{report.name}@{report.digest}")
            if report.entry is not None:
                output.say(f"entry {report.entry} of the ledger records its base")


def _print_row(output: CommandOutput, report: RebaseReport, row: PlatformRow) -> None:
    part, base = row.part, row.old_base
    notes = () if part is None else part.result.notes
    output.add(
        ref=report.name,
        status=row.status,
        reason=row.reason,
        platform=row.platform,
        digest=None if report.digest is None else str(report.digest),
        old_base=None if base is None else str(base.reference),
        evidence=None if base is None else base.evidence,
        new_base=str(report.base),
        own_layers=None if part is None else part.result.own_layers,
        conflicts=[{"rule": str(rule), "path": path, "reason": reason} for rule, path, reason in row.conflicts],
        notes=list(notes),
    )
    if output.as_json:
        return
    print_wrapped(f"{row.status:<10} ", clean(f"{report.name} for {row.platform}"))
    lines = [] if base is None else [("was on", f"{base.reference} ({base.evidence})"), ("now on", str(report.base))]
    if part is not None:
        kept, replaced = counted(part.result.own_layers, "own layer"), len(part.old.manifest.layers)
        lines.append(
            ("layers", f"{replaced} of the old base, {len(part.new.manifest.layers)} of the new one; {kept} kept")
        )
    lines += [("why", f"{path}: {reason}" if path else reason) for _, path, reason in row.conflicts]
    if row.reason and not row.conflicts:
        lines.append(("why", row.reason))
    lines += [("note", note) for note in notes]
    for label, text in lines:
        print_wrapped(f"{label:<8}", clean(text), indent=11)
