"""`boltseal admission`: run the admission webhook of a Kubernetes cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.durations import duration_option
from boltseal.cli.options import CaFileOption
from boltseal.cli.output import say
from boltseal.cli.registry_arguments import RegistryArguments, RegistryConfigOption
from boltseal.cli.remote import registry_options
from boltseal.commands.admission_images import MAX_TRUST_BYTES, AdmissionTerms, ImageGlob, read_trust, trust_ledgers
from boltseal.errors import Invalid
from boltseal.files.named_files import require_file
from boltseal.ledger.note import VerifierKey
from boltseal.policy.durations import Duration
from boltseal.server import admission as webhook
from boltseal.server import logs, supervisor
from boltseal.server.listen_address import ListenAddress

DEFAULT_LISTEN: Final = "127.0.0.1:8443"
REMEMBERED: Final = Duration.parse("10s")


def admission(
    trusted: Annotated[
        Path,
        typer.Option(
            "--trusted",
            metavar="FILE",
            show_default=False,
            help="The trusted ledgers: a registry and its ledger's key on each line.",
        ),
    ],
    tls_cert: Annotated[
        Path, typer.Option("--tls-cert", metavar="FILE", show_default=False, help="TLS certificate and its chain, PEM.")
    ],
    tls_key: Annotated[
        Path, typer.Option("--tls-key", metavar="FILE", show_default=False, help="Private key of --tls-cert, PEM.")
    ],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where the API server reaches it.")
    ] = DEFAULT_LISTEN,
    witness: Annotated[
        list[str] | None,
        typer.Option(
            "--witness", metavar="KEY", show_default=False, help="Require a witness's cosignature; repeatable."
        ),
    ] = None,
    unchecked: Annotated[
        list[str] | None,
        typer.Option(
            "--unchecked",
            metavar="GLOB",
            show_default=False,
            help="Admit these images as they are: registry.k8s.io/**; repeatable.",
        ),
    ] = None,
    fail_open: Annotated[
        bool,
        typer.Option(
            "--fail-open", help="Admit an image that can't be checked now, with a warning. Default: refuse it."
        ),
    ] = False,
    remember: Annotated[
        Duration,
        duration_option(
            "--remember", "How long the digest of a mutable tag is used again.", at_most="1h", show_default=True
        ),
    ] = REMEMBERED,
    ca_file: CaFileOption = None,
    registry_config: RegistryConfigOption = None,
) -> None:
    """Run the admission webhook of a Kubernetes cluster until SIGTERM or Ctrl-C.

    It replaces each tag by the digest that the registry's ledger proves, and refuses objects with other images.
    docs/operations/admission.md has the manifests for a cluster.
    """
    try:
        address = ListenAddress.parse(listen)
    except ValueError as error:
        raise Invalid(f"--listen {listen}: expected {error}") from error
    require_file(trusted)
    with trusted.open("rb") as file:
        ledgers = read_trust(file.read(MAX_TRUST_BYTES))
    options = registry_options(RegistryArguments(ca_file=ca_file, registry_config=registry_config, strict=True))
    terms = AdmissionTerms(
        trust_ledgers(options, ledgers),
        tuple(VerifierKey.parse(each) for each in witness or ()),
        tuple(ImageGlob.parse(each) for each in unchecked or ()),
        fail_open=fail_open,
        remembered_s=remember.seconds,
    )
    server = webhook.AdmissionServer(address, tls_cert, tls_key)
    supervisor.refuse_taken_port(address)
    as_json = logs.wants_json("auto")
    logs.configure("info", as_json=as_json)
    webhook.serve(
        server,
        options,
        terms,
        lambda: supervisor.call_when_listening(
            address, lambda: say(f"the admission webhook listens on https://{address}")
        ),
        as_json=as_json,
    )
