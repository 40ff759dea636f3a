"""`boltseal build --print-labels`: print where an image comes from as flags of `docker build`."""

from __future__ import annotations

from boltseal.build.labels import as_flags
from boltseal.cli.output import CommandOutput, print_line
from boltseal.commands.build_labels import LabelsRequest, image_labels
from boltseal.commands.registry_access import RegistryOptions


def print_labels(output: CommandOutput, request: LabelsRequest, options: RegistryOptions, *, annotations: bool) -> None:
    """Print the labels of an image that is built of these inputs, one flag a line, quoted for a shell.

    `annotations`: each also as --annotation.
    """
    found = image_labels(request, options)
    output.add(ref=str(request.inputs.context), status="labels", reason="", labels=found)
    if not output.as_json:
        for flag in as_flags(found, annotations=annotations):
            print_line(flag)
