"""`boltseal scrub`: verify the images on this host's disk."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.context import client_context
from boltseal.cli.durations import duration_option
from boltseal.cli.options import AllowEmptyOption, JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.project_options import AllowOption
from boltseal.cli.registry_arguments import RegistryArguments, takes_registry_arguments
from boltseal.cli.scrub_text import fields, print_reports, share_fields, share_text
from boltseal.commands.end_with_stdin import end_with_stdin
from boltseal.commands.scrub import ScrubImagesRequest, parse_rate, scrub_images
from boltseal.commands.scrub_baseline_options import BaselineOptions
from boltseal.commands.scrub_expectations import ExpectationOptions
from boltseal.commands.scrub_hosts_request import ScrubHostsRequest, refuse_local_options, remote_options
from boltseal.files.named_files import require_file
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.missing_manifests import FetchManifests
from boltseal.host.scrub.rotation import parse_share
from boltseal.policy.durations import Duration

DEFAULT_HOST_TIMEOUT: Final = Duration.parse("6h")

ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[IMAGE]...",
        show_default=False,
        help="Names or IDs; name@sha256:... gives the expected digest. Default: all.",
    ),
]
RootOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--root",
        metavar="PATH",
        show_default=False,
        readable=False,  # an unreadable store could not be checked; it is no usage error
        help="A store, a mounted disk, a layout or an archive, instead of this host's stores.",
    ),
]
ExpectOption = Annotated[
    str | None,
    typer.Option("--expect", metavar="DIGEST", show_default=False, help="The ID or digest of the one IMAGE."),
]
LockOption = Annotated[
    Path | None,
    typer.Option(
        "--lock",
        metavar="FILE",
        show_default=False,
        help="A lock with the expected digests. [default: boltseal.lock in this folder, if it exists]",
    ),
]
NoLockOption = Annotated[bool, typer.Option("--no-lock", help="Ignore the boltseal.lock in this folder.")]
ReceiptOption = Annotated[
    list[Path] | None,
    typer.Option("--receipt", metavar="FILE", show_default=False, help="A ledger's receipt of a tag; repeatable."),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", show_default=False, help="The key of the receipts' ledger."),
]
DocumentsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--documents",
        metavar="PATH",
        show_default=False,
        help="A layout or archive with manifests that a store does not keep; FILE.oci beside a receipt is used too.",
    ),
]
BaselineOption = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="FILE",
        show_default=False,
        help="Check against what this baseline recorded; needs --trusted-key.",
    ),
]
TrustedKeyOption = Annotated[
    str | None,
    typer.Option("--trusted-key", metavar="KEY", show_default=False, help="The public key that signed the baseline."),
]
WriteBaselineOption = Annotated[
    Path | None,
    typer.Option(
        "--write-baseline",
        metavar="FILE",
        show_default=False,
        help="Record the files of all images that hold in a new signed file; needs --signing-key.",
    ),
]
SigningKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--signing-key",
        metavar="FILE",
        show_default=False,
        help="The private key that signs the baseline; created if the file does not exist.",
    ),
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Metadata, layer order and attributes only; no content.")]
FromDiskOption = Annotated[
    bool, typer.Option("--from-disk", help="Drop what is read from the page cache, so that the disk is read.")
]
RateOption = Annotated[
    str,
    typer.Option("--bytes-per-second", metavar="RATE", show_default=False, help="Limit of the read rate, e.g. 50M."),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Contact no registry for manifests that a store does not keep.")
]
CompleteOption = Annotated[
    bool, typer.Option("--complete", help="Exit code 3 if anything was left out, such as a build cache.")
]
NiceOption = Annotated[bool, typer.Option("--nice", help="Use the lowest CPU and disk priority.")]

ShareOption = Annotated[
    str | None,
    typer.Option(
        "--share",
        metavar="SHARE",
        show_default=False,
        help="Read a rotating share of the content, 1/N, such as 1/7: N runs read everything. The rest is checked as by --quick.",
    ),
]
HostsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        show_default=False,
        help="Run boltseal scrub on this host, ssh://[USER@]HOST[:PORT], where it is installed; repeatable.",
    ),
]
HostTimeoutOption = Annotated[
    Duration,
    duration_option("--host-timeout", "How long a host may take.", at_least="1s", show_default=True),
]
EndWithStdinOption = Annotated[
    bool,
    typer.Option("--end-with-stdin", help="End as soon as standard input ends; --host runs it so on other hosts."),
]
MetricsOption = Annotated[
    Path | None,
    typer.Option(
        "--metrics-file",
        metavar="FILE",
        show_default=False,
        help="Write metrics of this run for Prometheus, for the textfile collector of node_exporter.",
    ),
]


@takes_registry_arguments
def scrub(
    images: ImagesArgument = None,
    root: RootOption = None,
    expect: ExpectOption = None,
    lock: LockOption = None,
    no_lock: NoLockOption = False,
    receipt: ReceiptOption = None,
    key: KeyOption = None,
    documents: DocumentsOption = None,
    baseline: BaselineOption = None,
    trusted_key: TrustedKeyOption = None,
    write_baseline: WriteBaselineOption = None,
    signing_key: SigningKeyOption = None,
    quick: QuickOption = False,
    share: ShareOption = None,
    from_disk: FromDiskOption = False,
    bytes_per_second: RateOption = "",
    nice: NiceOption = False,
    offline: OfflineOption = False,
    allow: AllowOption = None,
    complete: CompleteOption = False,
    metrics_file: MetricsOption = None,
    host: HostsOption = None,
    host_timeout: HostTimeoutOption = DEFAULT_HOST_TIMEOUT,
    until_stdin_ends: EndWithStdinOption = False,
    allow_empty: AllowEmptyOption = False,
    *,
    access: RegistryArguments,
    as_json: JsonOption = False,
) -> None:
    """Verify the images on this host's disk, down to every file. Changes nothing, and uses no engine.

    Each image is verified to a level: L0 it is consistent, L1 it has the expected digest, L2 it is what a ledger's receipt
    proves; B its files are those that a signed baseline recorded. Exit code 0: all of it holds; 1: something differs; 3: something
    could not be checked, or there was no image. Layers of a build cache without a digest can't be checked: their number is
    stated, and is exit code 3 with --complete.
    """  # fmt: skip
    with CommandOutput("scrub", as_json=as_json) as output:
        if host:
            refuse_local_options(lock=lock, receipt=receipt, key=key, documents=documents)
            wanted = ScrubHostsRequest(
                hosts=tuple(host),
                images=tuple(images or ()),
                roots=tuple(root or ()),
                options=remote_options(expect, bytes_per_second, share, quick=quick, from_disk=from_disk, nice=nice),
                kind="quick" if quick else "full" if share is None else "share",
                allow_empty=allow_empty,
                timeout_s=host_timeout.seconds,
                metrics=metrics_file,
            )
            _print_hosts(output, wanted)
            return
        if until_stdin_ends:
            end_with_stdin()
        for path in root or ():
            require_file(path)
        request = ScrubImagesRequest(
            images=tuple(images or ()),
            roots=tuple(root or ()),
            expectations=ExpectationOptions(
                expect=expect,
                lock=lock,
                no_lock=no_lock,
                receipts=tuple(receipt or ()),
                key=key,
                documents=tuple(documents or ()),
            ),
            baseline=BaselineOptions(baseline, trusted_key, write_baseline, signing_key),
            mode=CheckMode(quick=quick, from_disk=from_disk),
            rate=parse_rate(bytes_per_second),
            low_priority=nice,
            offline=offline,
            complete=complete,
            allow_empty=allow_empty,
            metrics=metrics_file,
            shares=None if share is None else parse_share(share),
        )
        with Progress() as progress:
            fetcher = _fetcher(access, images or [], allow or [])
            found = scrub_images(request, client_context(), fetcher, _RateProgress(progress))
        gc.freeze()  # a scrub makes no cycles, and Python would search all modules for some at exit
        output.outcome = found.outcome
        for report in found.reports:
            output.add(**fields(report))
        if not as_json:
            print_reports(found.reports, quick=quick)
        if found.share is not None:
            output.add(**share_fields(found.share))
            output.print(share_text(found.share))
        for problem in found.problems:
            output.add(ref="", status="unknown", reason=problem)
            say(f"boltseal: {problem}")
        if not found.has_checked and not allow_empty:
            remedy = "check --root" if root else "name a store with --root"
            output.nothing_to_check(f"found 0 images in {found.searched}", remedy)


def _print_hosts(output: CommandOutput, wanted: ScrubHostsRequest) -> None:
    from boltseal.cli.scrub_hosts import print_hosts  # imports asyncio, which other scrubs do not need

    print_hosts(output, wanted)


def _fetcher(access: RegistryArguments, images: list[str], allow: list[str]) -> Callable[[], FetchManifests]:
    """Return a function that returns how manifests are fetched. It imports the client of registries.

    Raises: ProjectInvalid: an invalid --allow; the function raises it if the user's settings are invalid.
    """

    def fetcher() -> FetchManifests:
        from boltseal.cli.remote import registry_options
        from boltseal.commands.project_images import registry_filter
        from boltseal.commands.scrub_manifests import ManifestFetcher

        options = registry_options(access)
        return ManifestFetcher(options, images, registry_filter(options, allow))

    if not allow:
        return fetcher
    fetch = fetcher()
    return lambda: fetch


class _RateProgress:
    """Shows how much was read and how fast."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._began_s = time.monotonic()

    def __call__(self, read: int, done: int, total: int) -> None:
        rate = int(read / max(time.monotonic() - self._began_s, 0.001))
        self._progress("layers", done, total, f"{size_text(read)} read, {size_text(rate)}/s")
