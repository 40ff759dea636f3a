"""`boltseal verify`: check in a pipeline that the files of a project still resolve to what was locked."""

from __future__ import annotations

from pathlib import Path

from boltseal.cli.event_loop import interrupted_by_sigterm
from boltseal.cli.options import AllowEmptyOption, JsonOption, PlatformsOption
from boltseal.cli.output import CommandOutput, print_line
from boltseal.cli.progress import Progress
from boltseal.cli.project_options import AllowOption, PathsArgument, ProjectOption
from boltseal.cli.project_output import report_empty
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.running_options import ComposeOption, HostsOption, KubeOption, NamespaceOption
from boltseal.cli.verify_options import (
    GithubOption,
    OfflineOption,
    ReleasedOption,
    RunningOption,
)
from boltseal.cli.verify_output import escape_message, print_verified
from boltseal.cli.verify_running_output import print_running
from boltseal.commands.ps import ContainerFilter
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.verify import VerifyRequest, verify_project
from boltseal.commands.verify_release import verify_release
from boltseal.commands.verify_running import VerifyRunningRequest, verify_running
from boltseal.errors import Invalid


@takes_registry_options
def verify(
    paths: PathsArgument = None,
    offline: OfflineOption = False,
    platform: PlatformsOption = None,
    github: GithubOption = False,
    running: RunningOption = False,
    host: HostsOption = None,
    compose: ComposeOption = None,
    kube: KubeOption = None,
    namespace: NamespaceOption = None,
    project_name: ReleasedOption = None,
    allow_empty: AllowEmptyOption = False,
    project: ProjectOption = Path(),
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Check that a project's images are what was locked.

    Status of each reference: holds; tag moved; not pinned; not in the lock; lock and file disagree; wrong platform
    pinned; gone; could not check, with the reason. A pin whose mutable tag moved still holds, and is noted.

    With --running, of each container: holds; not recreated; recreated without a pull; tag moved after the pull, or
    after the lock; other platform; local build; unknown; record gone. Containers that are not in the lock are noted.

    With --running, --kube and --project-name, the pods are compared with the running release of `deploy --kube`, by the
    release's own lock: holds; not as released, if the pod asks for another digest than the release has; other image, if
    its node runs another than the pod asks for; other platform; could not check, with the reason.

    Exit code 0: all hold; 1: one does not; 3: one could not be checked, or there was nothing to check. With --strict
    what is only noted counts as a difference (1).
    """
    if running:
        if paths or github:
            raise Invalid("--running checks hosts; it excludes PATH and --github")
        with CommandOutput("verify-running", as_json=as_json) as output:
            running_request = VerifyRunningRequest(
                filter=ContainerFilter(tuple(host or ()), compose, kube, namespace),
                project=project,
                offline=offline,
                strict=access.strict,
                allow=tuple(allow or ()),
                released=project_name,
            )
            if project_name is None:
                report = verify_running(running_request, access)
            else:
                report = verify_release(running_request, access.client)
            print_running(output, report, allow_empty=allow_empty)
        return
    if host or compose or kube or namespace or project_name:
        raise Invalid("--host, --compose, --kube, --namespace and --project-name need --running")
    with CommandOutput("verify", as_json=as_json) as output:
        request = VerifyRequest(
            project=project,
            paths=tuple(paths or ()),
            platforms=tuple(platform or ()),
            offline=offline,
            strict=access.strict,
            allow=tuple(allow or ()),
        )
        with Progress() as progress, interrupted_by_sigterm():
            verified = verify_project(request, access, progress)
        print_verified(output, verified, github=github)
        if verified.opened.empty and not allow_empty:
            reason = report_empty(output, verified.opened)
            if github and not as_json:
                print_line(f"::error::{escape_message(reason)}")
