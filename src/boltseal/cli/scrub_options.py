"""Options of `boltseal scrub`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.durations import duration_option
from boltseal.policy.durations import Duration

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
        help="Check this store, mounted disk, OCI layout or archive, and not this host's stores; repeatable.",
    ),
]
ExpectOption = Annotated[
    str | None,
    typer.Option(
        "--expect", metavar="DIGEST", show_default=False, help="The ID or digest that the one IMAGE must have."
    ),
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
        help="Compare with the images that this baseline recorded; needs --trusted-key.",
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
QuickOption = Annotated[
    bool, typer.Option("--quick", help="Compare metadata, layer order and attributes, but no content.")
]
FromDiskOption = Annotated[
    bool,
    typer.Option("--from-disk", help="Drop files from the page cache before they are read, so that the disk is read."),
]
RateOption = Annotated[
    str,
    typer.Option(
        "--bytes-per-second",
        metavar="RATE",
        show_default=False,
        help="Read at most so many bytes per second, such as 50M.",
    ),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Contact no registry for manifests that a store does not keep.")
]
CompleteOption = Annotated[
    bool,
    typer.Option(
        "--complete", help="Exit with 3 if anything was left out, such as a build cache or what --share did not read."
    ),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="HOST",
        show_default=False,
        help="Contact this registry if files of the project, a lock or a store name it.",
    ),
]
NiceOption = Annotated[bool, typer.Option("--nice", help="Use the lowest CPU and disk priority.")]
ShareOption = Annotated[
    str | None,
    typer.Option(
        "--share",
        metavar="SHARE",
        show_default=False,
        help="Read a share of the content, such as 1/7: seven runs read everything. Check the rest as --quick does.",
    ),
]
HostsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        show_default=False,
        help="Check this host by ssh, ssh://[USER@]HOST[:PORT]; boltseal must be installed there. Repeatable.",
    ),
]
HostTimeoutOption = Annotated[
    Duration,
    duration_option("--host-timeout", "How long to wait for the answer of a host.", at_least="1s", show_default=True),
]
EndWithStdinOption = Annotated[
    bool,
    typer.Option(
        "--end-with-stdin",
        help="End when standard input ends; --host passes it, so that no scrub outlives its connection.",
    ),
]
MetricsOption = Annotated[
    Path | None,
    typer.Option(
        "--metrics-file",
        metavar="FILE",
        show_default=False,
        help="Write metrics of this run for the textfile collector of Prometheus' node_exporter.",
    ),
]
