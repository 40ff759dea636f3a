"""The GitHub action, the GitLab component and the pre-commit hooks: checked by schema, with their shell steps run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli import program as boltseal
from tests.docs.pages import ROOT, text
from tests.real.layout import image_layout
from tests.real.registry import Registry
from tests.real.tools import CommandResult, run

pytestmark = [pytest.mark.real, pytest.mark.slow]

ACTION = "packaging/github-action"
COMPONENT = "templates/verify.yml"
LOCK = ROOT / "tests/data/pipelines/requirements.lock"
BASH = "/bin/bash"
INSTALL_TIMEOUT_S = 600.0
UNCOMPILED = {"PIP_NO_COMPILE": "1"}  # what an installed program imports is compiled when it runs, the rest need not be


@dataclass(frozen=True, slots=True)
class Clone:
    """A clone of this repository in its present state, in one commit."""

    folder: Path
    revision: str


@dataclass(frozen=True, slots=True)
class Project:
    """A locked project with one image, in a registry on this machine."""

    folder: Path
    digest: str

    @property
    def compose(self) -> str:
        return (self.folder / "compose.yaml").read_text()

    def use_tag(self, tag: str) -> None:
        """Write another tag, which is not locked, into the Compose file."""
        (self.folder / "compose.yaml").write_text(re.sub(r":1\.4\.2(@\S+)?", f":{tag}", self.compose))


def git(folder: Path, *arguments: str) -> str:
    """Run git as an invented author, without the configuration of this machine."""
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = ("-c", "user.name=someone", "-c", "user.email=someone@example.com")
    return subprocess.run(
        ["git", "-C", folder, *who, *arguments], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs pre-commit and check-jsonschema, installed with hashes."""
    venv = tmp_path_factory.mktemp("tools") / "venv"
    run(sys.executable, "-m", "venv", venv).checked()
    pip = (str(venv / "bin/pip"), "install", "--quiet", "--require-hashes", "-r", LOCK)
    run(*pip, env=UNCOMPILED, timeout_s=INSTALL_TIMEOUT_S).checked()
    return venv / "bin"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with the uncommitted changes."""
    folder = tmp_path_factory.mktemp("clone") / "boltseal"
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return Clone(folder, git(folder, "rev-parse", "HEAD"))


@pytest.fixture
def project(registry: Registry, repository: str, tmp_path: Path) -> Project:
    """A project that uses one of two tags of the registry, which is locked."""
    name = f"{registry.host}/{repository}"
    for tag in ("1.4.2", "1.4.3"):
        layout = image_layout(tmp_path / tag, f"words of {tag}".encode())
        run("skopeo", "copy", "--dest-tls-verify=false", layout.source, f"docker://{name}:{tag}").checked()
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "compose.yaml").write_text(f"services:\n  app:\n    image: {name}:1.4.2\n")
    locked = boltseal.run("lock", "--project", folder)
    assert locked.code == 0, locked.err
    return Project(folder, registry.digest(repository, "1.4.2"))


def action() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(text(f"{ACTION}/action.yml"))
    return document


def run_action(clone: Clone, workspace: Path, temporary: Path, **inputs: str) -> CommandResult:
    """Run the action's steps as a GitHub runner does, until one fails; the installing step runs once only."""
    temporary.mkdir(exist_ok=True)
    paths = temporary / "path"
    paths.touch()
    values = {name: inputs.get(name, definition["default"]) for name, definition in action()["inputs"].items()}
    assert set(inputs) <= set(values)
    result = CommandResult(True, "")
    for step in action()["runs"]["steps"][bool(paths.read_text()) :]:
        script = temporary / "step.sh"
        script.write_text(step["run"])
        assert "${{" not in step["run"]  # an input in a script would be run as code
        given = {
            name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: values[found[1]], value)
            for name, value in step["env"].items()
        }
        environment = os.environ | UNCOMPILED | given
        environment |= {
            "GITHUB_ACTION_PATH": str(clone.folder / ACTION),
            "GITHUB_PATH": str(paths),
            "RUNNER_TEMP": str(temporary),
            "PATH": ":".join([*reversed(paths.read_text().splitlines()), os.environ["PATH"]]),
        }
        assert step["shell"] == "bash"
        command = (BASH, "--noprofile", "--norc", "-eo", "pipefail", script)
        result = run(*command, env=environment, cwd=workspace, timeout_s=INSTALL_TIMEOUT_S)
        if not result.ok:
            break
    return result


def component(**inputs: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header of the GitLab component, and its jobs with these inputs."""
    header, body = text(COMPONENT).split("\n---\n")
    specified: dict[str, Any] = yaml.safe_load(header)["spec"]["inputs"]
    values = {name: inputs.get(name, definition.get("default")) for name, definition in specified.items()}
    assert set(inputs) <= set(values)
    assert None not in values.values()
    for name, definition in specified.items():
        assert re.search(definition.get("regex", ""), values[name])
    jobs: dict[str, Any] = yaml.safe_load(re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda found: values[found[1]], body))
    return yaml.safe_load(header), jobs


def run_component(folder: Path, temporary: Path, **inputs: str) -> CommandResult:
    """Run the component's job as a GitLab runner does, in one shell; the installing part runs once only."""
    _, jobs = component(**inputs)
    (job,) = jobs.values()
    temporary.mkdir(exist_ok=True)
    installed = [path.parent for path in temporary.glob("*/venv")]
    before = [f"folder={installed[0]}"] if installed else job["before_script"]
    lines = ["set -eo pipefail", *before, *job["script"]]
    environment: Mapping[str, str] = os.environ | UNCOMPILED | job["variables"] | {"TMPDIR": str(temporary)}
    return run(BASH, "-c", "\n".join(lines), env=environment, cwd=folder, timeout_s=INSTALL_TIMEOUT_S)


def test_the_files_match_their_schemas(tools: Path, tmp_path: Path) -> None:
    """The files match the schemas of GitHub and GitLab and pre-commit's own check, which find a misspelt key."""
    check = str(tools / "check-jsonschema")
    header, jobs = component(repository="https://git.example.com/boltseal", revision="0" * 40)
    for name, document in (("header", header), ("jobs", jobs)):
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(document))
    wrong = tmp_path / "action.yml"
    wrong.write_text(text(f"{ACTION}/action.yml").replace("using: composite", "use: composite"))

    run(check, "--builtin-schema", "vendor.github-actions", ROOT / ACTION / "action.yml").checked()
    run(check, "--builtin-schema", "vendor.gitlab-ci", tmp_path / "header.yml", tmp_path / "jobs.yml").checked()
    run(str(tools / "pre-commit"), "validate-manifest", ROOT / ".pre-commit-hooks.yaml").checked()
    assert not run(check, "--builtin-schema", "vendor.github-actions", wrong).ok


def test_the_examples_of_the_page_are_valid_and_use_what_exists(tools: Path, tmp_path: Path) -> None:
    """The page's workflow, include and hooks name files, inputs and ids of this repository."""
    workflow, include, hooks = re.findall(r"```yaml\n(.*?)```", text("docs/guides/pipelines.md"), re.DOTALL)
    names = ("workflow.yml", "include.yml", ".pre-commit-config.yaml")
    for name, content in zip(names, (workflow, include, hooks), strict=True):
        (tmp_path / name).write_text(content)
    check = str(tools / "check-jsonschema")
    run(check, "--builtin-schema", "vendor.github-workflows", tmp_path / "workflow.yml").checked()
    run(check, "--builtin-schema", "vendor.gitlab-ci", tmp_path / "include.yml").checked()
    run(str(tools / "pre-commit"), "validate-config", tmp_path / ".pre-commit-config.yaml").checked()
    step = yaml.safe_load(workflow)["jobs"]["verify"]["steps"][1]
    (included,) = yaml.safe_load(include)["include"]
    ids = {hook["id"] for hook in yaml.safe_load(hooks)["repos"][0]["hooks"]}

    assert step["uses"].partition("@")[0].endswith(f"/boltseal/{ACTION}")
    assert set(step["with"]) <= set(action()["inputs"])
    assert included["component"].partition("@")[0].endswith(f"/{Path(COMPONENT).stem}")
    assert component(**included["inputs"])
    assert ids == {hook["id"] for hook in yaml.safe_load(text(".pre-commit-hooks.yaml"))}


def test_no_other_variable_replaces_an_input_of_the_component() -> None:
    """GitLab prefers a project's or trigger's variable to the job's, so inputs need names that no other variable has."""
    _, jobs = component(repository="https://git.example.com/boltseal", revision="0" * 40)
    (job,) = jobs.values()

    assert all(name.startswith("BOLTSEAL_") for name in job["variables"])


def test_the_action_verifies_and_pins_a_project(clone: Clone, project: Project, tmp_path: Path) -> None:
    """The action passes, writes digests, and fails with an annotation for an image that is not locked."""
    temporary = tmp_path / "runner"
    passed = run_action(clone, project.folder, temporary)
    pinned = run_action(clone, project.folder, temporary, command="pin")
    after_pin = project.compose
    project.use_tag("1.4.3")
    failed = run_action(clone, project.folder, temporary, arguments="--offline  --strict")
    unknown = run_action(clone, project.folder, temporary, command="serve; touch injected\n::add-mask::1")

    assert passed.ok, passed.text
    assert pinned.ok, pinned.text
    assert f":1.4.2@{project.digest}" in after_pin
    assert not failed.ok
    assert "::error file=compose.yaml" in failed.text
    assert not unknown.ok
    assert "expected verify or pin" in unknown.text
    assert "\n::add-mask" not in unknown.text
    assert not (project.folder / "injected").exists()
    assert [path.name for path in (temporary / "boltseal/bin").iterdir()] == ["boltseal"]


def test_the_action_installs_nothing_with_another_hash(clone: Clone, tmp_path: Path) -> None:
    """A dependency with another hash than in the lock ends the job before anything runs."""
    changed = Clone(Path(shutil.copytree(clone.folder, tmp_path / "changed")), clone.revision)
    lock = changed.folder / "requirements.lock"
    lock.write_text(re.sub(r"(?<=sha256:)[0-9a-f]{64}", "0" * 64, lock.read_text()))
    refused = run_action(changed, tmp_path, tmp_path / "runner")

    assert not refused.ok
    assert "HASH" in refused.text.upper()
    assert not (tmp_path / "runner/boltseal/bin").exists()


def test_the_component_verifies_a_project(clone: Clone, project: Project, tmp_path: Path) -> None:
    """The component installs the given revision, passes, and fails for an image that is not locked."""
    inputs = {"repository": str(clone.folder), "revision": clone.revision}
    elsewhere = run_component(project.folder, tmp_path / "other", **inputs | {"revision": "1" * 40})
    passed = run_component(project.folder, tmp_path / "runner", **inputs, arguments="--offline")
    project.use_tag("1.4.3")
    failed = run_component(project.folder, tmp_path / "runner", **inputs, arguments="--offline --strict")

    assert passed.ok, passed.text
    assert not elsewhere.ok
    assert not failed.ok
    assert "1.4.3" in failed.text


def test_pre_commit_runs_both_hooks(clone: Clone, project: Project, tools: Path, tmp_path: Path) -> None:
    """The first run of the hooks writes digests, the second passes, and an unlocked tag is refused."""
    (project.folder / ".pre-commit-config.yaml").write_text(
        yaml.safe_dump(
            {
                "repos": [
                    {
                        "repo": str(clone.folder),
                        "rev": clone.revision,
                        "hooks": [{"id": "boltseal-verify"}, {"id": "boltseal-pin"}],
                    }
                ]
            }
        )
    )
    git(project.folder, "init", "--quiet")

    def hooks() -> CommandResult:
        git(project.folder, "add", "--all")
        environment = os.environ | {"PRE_COMMIT_HOME": str(tmp_path / "pre-commit"), "PRE_COMMIT_COLOR": "never"}
        command = (str(tools / "pre-commit"), "run", "--all-files")
        return run(*command, env=environment, cwd=project.folder, timeout_s=INSTALL_TIMEOUT_S)

    first = hooks()
    pinned = project.compose
    second = hooks()
    project.use_tag("1.4.3")
    third = hooks()

    assert re.search(r"boltseal verify\.+Passed", first.text), first.text
    assert re.search(r"boltseal pin\.+Failed", first.text), first.text
    assert "files were modified by this hook" in first.text
    assert f":1.4.2@{project.digest}" in pinned
    assert second.ok, second.text
    assert re.search(r"boltseal verify\.+Failed", third.text), third.text
    assert "1.4.3" in third.text
