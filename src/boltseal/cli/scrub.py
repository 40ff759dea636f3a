"""`boltseal scrub`: verify the images on this host's disk, or on other hosts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from boltseal.cli.context import client_context
from boltseal.cli.host_options import HostsFileOption, named_hosts
from boltseal.cli.options import AllowEmptyOption, JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.registry_arguments import RegistryArguments, takes_registry_arguments
from boltseal.cli.report_options import ReportAsOption, ReportEveryOption, ReportOption, show_report
from boltseal.cli.scrub_options import (
    AllowOption,
    BaselineOption,
    CompleteOption,
    DocumentsOption,
    EndWithStdinOption,
    ExpectOption,
    FromDiskOption,
    HostsOption,
    HostTimeoutOption,
    ImagesArgument,
    KeyOption,
    LockOption,
    MetricsOption,
    NiceOption,
    NoLockOption,
    OfflineOption,
    QuickOption,
    RateOption,
    ReceiptOption,
    RootOption,
    ShareOption,
    SigningKeyOption,
    TrustedKeyOption,
    WriteBaselineOption,
)
from boltseal.cli.scrub_text import fields, print_reports, share_fields, share_text
from boltseal.commands.end_with_stdin import end_with_stdin
from boltseal.commands.scrub import ScrubImagesRequest, ScrubResult, parse_rate, scrub_images
from boltseal.commands.scrub_baseline_options import BaselineOptions
from boltseal.commands.scrub_expectations import ExpectationOptions
from boltseal.commands.scrub_hosts_request import ScrubHostsRequest
from boltseal.errors import Invalid
from boltseal.files.named_files import require_file
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.missing_manifests import FetchManifests
from boltseal.host.scrub.rotation import parse_share
from boltseal.loading import deferred
from boltseal.policy.durations import Duration

if TYPE_CHECKING:
    from boltseal.cli import remote, scrub_hosts
    from boltseal.commands import host_reports, project_images, scrub_manifests, scrub_report
else:  # a scrub of this host without expected digests starts in half of the time
    host_reports = deferred("boltseal.commands.host_reports")
    project_images = deferred("boltseal.commands.project_images")
    remote = deferred("boltseal.cli.remote")
    scrub_hosts = deferred("boltseal.cli.scrub_hosts")
    scrub_manifests = deferred("boltseal.commands.scrub_manifests")
    scrub_report = deferred("boltseal.commands.scrub_report")

DEFAULT_HOST_TIMEOUT: Final = Duration.parse("6h")


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
    hosts_file: HostsFileOption = None,
    host_timeout: HostTimeoutOption = DEFAULT_HOST_TIMEOUT,
    until_stdin_ends: EndWithStdinOption = False,
    allow_empty: AllowEmptyOption = False,
    report: ReportOption = None,
    report_as: ReportAsOption = None,
    report_every: ReportEveryOption = None,
    *,
    access: RegistryArguments,
    as_json: JsonOption = False,
) -> None:
    """Verify the images on this host's disk, down to every file. Changes nothing, and needs no engine.

    Each image is printed with what its files are compared with. L0: only the store's own records. L1: the digest that you
    expect (IMAGE@sha256:..., --expect, a lock or a baseline). L2: a ledger's receipt. B: the files that a signed baseline
    recorded, where the store can't prove them by a digest.

    --report sends the counts, and which images differ or could not be checked, to a boltseal registry. Whether that worked is
    shown, and does not change the exit code.

    Exit code 0: all of it holds; 1: something differs; 3: something could not be checked, or there was no image. Containers
    that were removed meanwhile (gone) do not change it. Build caches without a digest (not checked) and content that
    --share left to another run change it only with --complete.
    """  # fmt: skip
    with CommandOutput("scrub", as_json=as_json) as output:
        request = ScrubImagesRequest(
            images=tuple(images or ()),
            roots=tuple(root or ()),
            expectations=ExpectationOptions(
                expect=expect, lock=lock, no_lock=no_lock, receipts=receipt or (), key=key, documents=documents or ()
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
        fetching = _ManifestFetching(access, tuple(images or ()), tuple(allow or ()))
        hosts = named_hosts(host, hosts_file)
        reporting = (report, report_as, report_every)
        if report is not None and (images or hosts):
            raise Invalid("--report is about all images of this host; leave out IMAGE, --host and --hosts-file")
        if hosts:
            _scrub_hosts(output, request, fetching, hosts, host_timeout)
            return
        if until_stdin_ends:
            end_with_stdin()
        _scrub_this_host(output, request, fetching, reporting)


class _ManifestFetching(NamedTuple):
    """How manifests that a store does not keep are fetched. `allow`: registries that may be contacted."""

    access: RegistryArguments
    images: tuple[str, ...]
    allow: tuple[str, ...]


def _scrub_hosts(
    output: CommandOutput,
    request: ScrubImagesRequest,
    fetching: _ManifestFetching,
    hosts: tuple[str, ...],
    timeout: Duration,
) -> None:
    access = fetching.access
    registries = remote.registry_options(access)
    asked = ScrubHostsRequest(hosts, request, registries, fetching.allow, timeout.seconds, access.registry_config)
    scrub_hosts.print_hosts(output, asked)


def _scrub_this_host(
    output: CommandOutput,
    request: ScrubImagesRequest,
    fetching: _ManifestFetching,
    reporting: tuple[str | None, str | None, Duration | None],
) -> None:
    for path in request.roots:
        require_file(path)
    client = client_context()
    target = None
    if any(each is not None for each in reporting):
        target = host_reports.report_target(host_reports.ReportOptions(*reporting), client)
    with Progress() as progress:
        found = scrub_images(request, client, _fetcher(fetching), _RateProgress(progress))
    gc.freeze()  # a scrub makes no cycles, and Python would search all modules for some at exit
    _print_result(output, found, request)
    if target is not None:
        options = remote.registry_options(fetching.access)
        show_report(output, scrub_report.report_scrub(options, target, request, found))


def _print_result(output: CommandOutput, found: ScrubResult, request: ScrubImagesRequest) -> None:
    output.outcome = found.outcome
    for report in found.reports:
        output.add(**fields(report))
    if not output.as_json:
        print_reports(found.reports, quick=request.mode.quick)
    if found.share is not None:
        output.add(**share_fields(found.share))
        output.print(share_text(found.share))
    for problem in found.problems:
        output.add(ref="", status="unknown", reason=problem)
        say(f"boltseal: {problem}")
    if not found.has_checked and not request.allow_empty:
        remedy = "check --root" if request.roots else "name a store with --root"
        output.nothing_to_check(f"found 0 images in {found.searched}", remedy)


def _fetcher(fetching: _ManifestFetching) -> Callable[[], FetchManifests]:
    """Return a function that returns how manifests are fetched. It imports the client of registries.

    Raises: ProjectInvalid: an invalid --allow; the function raises it if the user's settings are invalid.
    """

    def fetcher() -> FetchManifests:
        options = remote.registry_options(fetching.access)
        allowed = project_images.registry_filter(options, fetching.allow)
        return scrub_manifests.ManifestFetcher(options, fetching.images, allowed)

    if not fetching.allow:
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
