"""Images in what kustomize, Docker Compose and Helm print, and the limits within which these tools run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import pytest

from boltseal.commands.project_images import open_project
from boltseal.commands.rendered_project import add_rendered, find_renderable, without_shown
from boltseal.lockfile.document import Rendered
from boltseal.project.rendering.tool_runs import MAX_MESSAGE, NotRendered, run_tool, tool_environment
from tests.boltseal_process import BoltsealProcess
from tests.polling import wait_until
from tests.programs import program
from tests.project.projects import DEPLOYMENT, written

KUSTOMIZE = {
    "base/kustomization.yaml": "resources: [web.yaml]\n",
    "base/web.yaml": DEPLOYMENT,
    "part/kustomization.yaml": "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\n",
    "prod/kustomization.yaml": "resources: [../base]\nimages: [{name: app, newName: quay.io/x/app, newTag: '7'}]\n",
}
COMPOSE = {
    "app/compose.yaml": "services:\n  web: {image: 'x/web:${TAG:?}'}\n  job: {image: 'x/job:1', profiles: [p]}\n",
    "app/compose.override.yaml": "services:\n  db: {image: 'x/db:2'}\n",
    "app/.env": "TAG=3\n",
}
HELM = """\
#!/bin/sh
test "$1 $2 $3" = "template release-name {chart}" || exit 9
cat <<'END'
---
# Source: shop/templates/web.yaml
apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec: {{containers: [{{name: a, image: "x/web:1"}}]}}
---
# Source: shop/charts/db/templates/db.yaml
apiVersion: v1
kind: Pod
metadata: {{name: db}}
spec: {{containers: [{{name: a, image: "x/db:2"}}]}}
END
"""


def environment(*folders: Path) -> dict[str, str]:
    return {"PATH": os.pathsep.join([*map(str, folders), os.environ["PATH"]]), "HOME": os.environ["HOME"]}


def printed(root: Path, variables: Mapping[str, str] | None = None) -> list[tuple[str, str, str]]:
    """Return the printed images of a project: file, position, reference."""
    opened = open_project(root)
    found = add_rendered(opened, find_renderable(opened), environment() if variables is None else variables).opened

    assert not found.problems
    return [(each.path, each.where, str(each.resolved)) for each in found.image_refs if each.format == "rendered"]


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.real
def test_kustomize_prints_the_image_of_a_base_under_its_new_name(tmp_path: Path) -> None:
    """The image that an overlay deploys is read from the output of kustomize, with the file of its resource."""
    program("kubectl")
    root = written(tmp_path, KUSTOMIZE)
    place = "Deployment web spec.template.spec.containers[web].image"

    assert printed(root) == [("base/web.yaml", f"kubectl kustomize prod: {place}", "quay.io/x/app:7")]


@pytest.mark.real
def test_compose_prints_the_services_of_all_files_and_profiles(tmp_path: Path) -> None:
    """Docker Compose fills in variables of `.env` and merges the override; each service has the file that defines it."""
    program("docker-compose")
    root = written(tmp_path, COMPOSE)

    assert sorted(printed(root)) == [
        ("app/compose.override.yaml", "docker compose config app: services.db.image", "docker.io/x/db:2"),
        ("app/compose.yaml", "docker compose config app: services.job.image", "docker.io/x/job:1"),
        ("app/compose.yaml", "docker compose config app: services.web.image", "docker.io/x/web:3"),
    ]


def test_helm_prints_the_templates_of_a_chart_and_its_dependencies(tmp_path: Path) -> None:
    """An image has the template that Helm names above it, and the notes about templates are gone. Helm is a stand-in."""
    chart = "apiVersion: v2\nname: shop\n"
    template = "kind: Pod\nspec: {containers: [{image: {{ .Values.web }}}]}\n"
    root = written(
        tmp_path / "p",
        {
            "shop/Chart.yaml": chart,
            "shop/templates/web.yaml": template,
            "shop/charts/db/Chart.yaml": chart,
            "lib/Chart.yaml": f"{chart}type: library\n",
        },
    )
    executable(tmp_path / "bin/helm", HELM.format(chart=root / "shop"))
    opened = open_project(root)
    found = add_rendered(opened, find_renderable(opened), environment(tmp_path / "bin")).opened

    assert [(each.path, each.written) for each in found.image_refs] == [
        ("shop/templates/web.yaml", "x/web:1"),
        ("shop/charts/db/templates/db.yaml", "x/db:2"),
    ]
    assert len(opened.notes) == 1
    assert not found.notes


def test_a_missing_tool_is_a_problem(tmp_path: Path) -> None:
    """A part whose tool is not installed is named as not rendered; the references in files stay."""
    root = written(tmp_path, {**COMPOSE, **KUSTOMIZE, "shop/Chart.yaml": "name: shop\n"})
    opened = open_project(root)
    found = add_rendered(opened, find_renderable(opened), {"PATH": str(tmp_path), "HOME": str(tmp_path)})

    assert not found.done
    assert [str(each) for each in found.opened.problems] == [
        "app: docker compose config app can't be rendered: docker-compose is not installed",
        "shop: helm template shop can't be rendered: helm is not installed",
        "prod: kubectl kustomize prod can't be rendered: kubectl is not installed",
    ]
    assert found.opened.image_refs == opened.image_refs


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo 'a: ['", "its output is not YAML"),
        ("printf 'a\\000b'", "its output contains a NUL byte"),
        ("printf 'image: \\377'", "its output is not UTF-8"),
        ("echo 'Error: no \033[31mchart' >&2; exit 1", '"Error: no \\x1b[31mchart"'),
        ("exit 7", "helm ended with exit code 7"),
        ("kill -9 $$", "helm ended with exit code -9"),
    ],
)
def test_output_that_is_no_manifest_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    """What a tool prints is untrusted: output that can't be used, or an error, is one quoted line."""
    root = written(tmp_path / "p", {"shop/Chart.yaml": "name: shop\n"})
    executable(tmp_path / "bin/helm", f"#!/bin/sh\n{text}\n")
    found = add_rendered(open_project(root), [Rendered("helm", "shop")], environment(tmp_path / "bin"))

    assert not found.done
    (problem,) = found.opened.problems
    assert reason in problem.message
    assert "\n" not in problem.message
    assert "\033" not in problem.message


def test_printed_images_are_no_more_than_text(tmp_path: Path) -> None:
    """An output with a path out of the project names no file out of it."""
    root = written(tmp_path / "p", {"shop/Chart.yaml": "name: shop\n", "prod/kustomization.yaml": "resources: []\n"})
    origin = "metadata: {annotations: {config.kubernetes.io/origin: 'path: ../../../../../etc/passwd'}}\n"
    text = f"{origin}kind: Pod\napiVersion: v1\nspec: {{containers: [{{image: 'x/a:1'}}]}}\n"
    executable(tmp_path / "bin/kubectl", f"#!/bin/sh\ncat <<'E'\n{text}E\n")
    found = add_rendered(open_project(root), [Rendered("kustomize", "prod")], environment(tmp_path / "bin"))

    assert [each.path for each in found.opened.image_refs] == ["prod/kustomization.yaml"]


def test_a_path_out_of_the_project_is_not_rendered(tmp_path: Path) -> None:
    """A lock can't make a tool read a folder out of the project, nor one that is gone."""
    root = written(tmp_path / "p", {"compose.yaml": "services: {}\n"})
    wanted = [Rendered("helm", "../other"), Rendered("helm", "gone")]
    problems = add_rendered(open_project(root), wanted, environment()).opened.problems

    assert ["is outside of the project" in problems[0].message, "is not there any more" in problems[1].message] == [
        True,
        True,
    ]


@pytest.mark.real
def test_a_printed_image_that_a_file_shows_has_one_result(tmp_path: Path) -> None:
    """For a verification, an image that a file names as it is printed is one reference."""
    program("docker-compose")
    root = written(tmp_path, {"compose.yaml": "services:\n  web: {image: 'x/web:1'}\n"})
    found = add_rendered(open_project(root), [Rendered("compose", ".")], environment()).opened

    assert len(found.image_refs) == 2
    assert [each.format for each in without_shown(found).image_refs] == ["compose"]


@pytest.mark.parametrize("path", [".:{}", ":{}", "bin:{}"])
def test_a_program_of_the_project_is_not_run(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative folder in PATH, which would be one of the project, is not searched for tools."""
    root = written(tmp_path / "p", {"kustomization.yaml": "resources: []\n"})
    for name in ("kubectl", "unshare", "bin/kubectl"):
        executable(root / name, f"#!/bin/sh\ntouch {tmp_path}/run\n")
    monkeypatch.chdir(root)
    own = {**environment(), "PATH": path.format(os.environ["PATH"]), "DOCKER_CONFIG": "docker"}
    add_rendered(open_project(root), [Rendered("kustomize", ".")], own)

    assert not (tmp_path / "run").exists()
    assert tool_environment(tmp_path, own["PATH"], "docker")["DOCKER_CONFIG"] == str(root / "docker")


def test_a_template_names_no_file_out_of_the_project(tmp_path: Path) -> None:
    """A comment that Helm's output has from a template names the chart if its path leads out of the project."""
    root = written(tmp_path / "p", {"shop/Chart.yaml": "name: shop\n"})
    pod = "kind: Pod\napiVersion: v1\nspec: {containers: [{image: 'x/a:1'}]}\n"
    text = "".join(f"---\n# Source: shop/{path}\n{pod}" for path in ("../../x", "/etc/passwd", "..", "../.."))
    executable(tmp_path / "bin/helm", f"#!/bin/sh\ncat <<'E'\n{text}E\n")
    found = add_rendered(open_project(root), [Rendered("helm", "shop")], environment(tmp_path / "bin"))

    assert {each.path for each in found.opened.image_refs} <= {"shop", "shop/etc/passwd", "."}


IMAGE_OF_ENV = "services:\n  web: {image: 'registry.example/x:${TOKEN}'}\n"


@pytest.mark.parametrize("tool", ["compose", "include", "helm"])
def test_a_file_out_of_the_project_does_not_become_the_name_of_an_image(tool: str, tmp_path: Path) -> None:
    """A project that makes a tool read a file outside of it, by a link or a path, is not rendered: a registry would get it."""
    secret = tmp_path / "secret.env"
    secret.write_text("TOKEN=s3cr3t\n")
    root = written(tmp_path / "p", {"compose.yaml": IMAGE_OF_ENV, "Chart.yaml": "name: shop\n", "files/x": ""})
    if tool == "include":
        (root / "sub.yaml").write_text(IMAGE_OF_ENV)
        (root / "compose.yaml").write_text(f"include: [{{path: sub.yaml, env_file: {secret}}}]\n")
    else:
        (root / (".env" if tool == "compose" else "files/link")).symlink_to(secret)
    executable(tmp_path / "bin/helm", "#!/bin/sh\ncat files/link\n")
    wanted = [Rendered("helm" if tool == "helm" else "compose", ".")]
    found = add_rendered(open_project(root), wanted, environment(tmp_path / "bin")).opened

    assert "s3cr3t" not in str(found)
    assert "is outside of the project" in found.problems[-1].message
    assert "can't be rendered" in found.problems[-1].message


def test_messages_without_end_are_limited(tmp_path: Path) -> None:
    """A tool that writes messages faster than they are read is ended after the time limit."""
    own = tool_environment(tmp_path, os.environ["PATH"], str(tmp_path))
    with pytest.raises(NotRendered, match="took longer than 1 s"):
        run_tool(["sh", "-c", "yes >&2 & yes >&2 & exec yes >&2"], tmp_path, own, time_limit_s=1)


def test_a_tool_has_no_network(tmp_path: Path) -> None:
    """A tool sees no network device but its own loopback, where the system allows that, and no proxy that works."""
    own = tool_environment(tmp_path, os.environ["PATH"], str(tmp_path))
    text = run_tool(["cat", "/proc/net/dev"], tmp_path, own).decode()

    assert [line.split(":")[0].strip() for line in text.splitlines()[2:]] == ["lo"]
    assert own["https_proxy"] == "http://127.0.0.1:9"


def test_a_tool_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """After the time limit the whole process group is ended, also a child that keeps the output open."""
    pid = tmp_path / "pid"
    script = f"import os, signal\nif os.fork() == 0:\n open({str(pid)!r}, 'w').write(str(os.getpid()))\nsignal.pause()"
    own = tool_environment(tmp_path, os.environ["PATH"], str(tmp_path))
    with pytest.raises(NotRendered, match=r"took longer than 2 s and was ended"):
        run_tool([sys.executable, "-c", script], tmp_path, own, time_limit_s=2)

    wait_until(lambda: _is_dead(int(pid.read_text())), "the end of the child")


def _is_dead(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


def test_the_end_of_a_long_failure_is_printed(tmp_path: Path) -> None:
    """Tools print the cause of a failure last, so a long message loses its middle."""
    own = tool_environment(tmp_path, os.environ["PATH"], str(tmp_path))
    steps = "accumulating resources: " * 50
    with pytest.raises(NotRendered, match=r"error: accumulating .* \.\.\. .*missing\.yaml: no such file") as raised:
        run_tool(["sh", "-c", f"echo 'error: {steps} missing.yaml: no such file' >&2; exit 1"], tmp_path, own)

    assert len(str(raised.value)) < 2 * MAX_MESSAGE


def _tool(tmp_path: Path, body: str) -> dict[str, str]:
    """Install a script as `kubectl`; return the user's environment."""
    script = tmp_path / "bin/kubectl"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return environment(tmp_path / "bin")


def test_two_tools_run_at_a_time_and_each_counts_as_progress(tmp_path: Path) -> None:
    """Two parts of a project are rendered at the same time, never more, and the progress counts them."""
    log = tmp_path / "log"
    lines = f"$(grep -c begin {log})"
    body = f"echo begin >> {log}; while [ {lines} -lt 2 ]; do sleep 0.05; done; echo end >> {log}"
    own = _tool(tmp_path, body)
    root = written(tmp_path / "p", {f"{name}/kustomization.yaml": "resources: [web.yaml]\n" for name in "abcde"})
    opened, seen = open_project(root), list[tuple[str, int, int]]()
    found = add_rendered(opened, find_renderable(opened), own, lambda *each: seen.append(each))
    running = list(accumulate(1 if line == "begin" else -1 for line in log.read_text().split()))

    assert len(found.done) == 5
    assert max(running) == 2
    assert [done for _, done, _ in seen] == [0, 1, 2, 3, 4]
    assert {(step, total) for step, _, total in seen} == {("rendering", 5)}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_the_tools_end_with_boltseal(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """A signal that ends boltseal ends the tools that run too, and nothing is locked."""
    own = _tool(tmp_path, f"echo $$ > {tmp_path}/$$.new; mv {tmp_path}/$$.new {tmp_path}/$$.pid; exec sleep 60")
    root = written(tmp_path / "p", {f"{name}/kustomization.yaml": "resources: [web.yaml]\n" for name in "abcde"})
    words = ["lock", "--render"]
    with BoltsealProcess(words, cwd=root, env={**os.environ, **own}, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, "two tools run")
        process.send_signal(number)
        ended = process.wait(30)

    pids = [int(file.stem) for file in tmp_path.glob("*.pid")]
    assert (ended, len(pids)) == (code, 2)
    wait_until(lambda: all(map(_is_dead, pids)), "the tools have ended")
    assert not (root / "boltseal.lock").exists()


def test_output_is_limited(tmp_path: Path) -> None:
    """A tool that prints without end is ended."""
    own = tool_environment(tmp_path, os.environ["PATH"], str(tmp_path))
    with pytest.raises(NotRendered, match="printed more than 100000 bytes"):
        run_tool(["yes"], tmp_path, own, max_bytes=100_000)


def test_a_tool_does_not_see_the_users_variables(tmp_path: Path) -> None:
    """The environment of a tool has nothing of the user's but the path of programs."""
    own = tool_environment(tmp_path, os.environ["PATH"], str(tmp_path))
    names = {line.partition("=")[0] for line in run_tool(["env"], tmp_path, own).decode().splitlines()}

    assert names - set(own) <= {"PWD", "SHLVL", "_"}
