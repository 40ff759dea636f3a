"""`deploy`, `rollback` and `release hold` with `--git-branch`, on real git repositories and a listening registry."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from boltseal.lockfile.holds import HOLDS_NAME
from boltseal.lockfile.parse import parse_lock
from boltseal.project.git_branch import BranchMoved, open_branch
from boltseal.project.git_program import GitFailed
from boltseal.project.outside_files import outside_files
from boltseal.project.source_files import MAX_FILE_BYTES
from tests.cli import program
from tests.cli.program import Run
from tests.images import Document, image, push
from tests.project.projects import written
from tests.servers import Server

pytestmark = pytest.mark.slow

OLD, NEW = image("old"), image("new")
NAMED = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@b"}


@pytest.fixture(autouse=True)
def _no_settings_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in NAMED.items():
        monkeypatch.setenv(name, value)


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def publish(server: Server, document: Document, tag: str = "latest") -> None:
    async def run() -> None:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            assert (await push(client, "shop/app", tag, document)).status_code == 201

    asyncio.run(run())


def committed(folder: Path, files: dict[str, str]) -> Path:
    """A repository with these files in one commit on main."""
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    written(folder, files)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "First")
    return folder


def flux(server: Server) -> dict[str, str]:
    """The layout that Flux's documentation shows: bases, an overlay for each cluster, and what Flux applies there."""
    app = f"{server.address}/shop/app"
    return {
        "clusters/production/apps.yaml": "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\n"
        "metadata: {name: apps, namespace: flux-system}\n"
        "spec: {interval: 10m, path: ./apps/production, prune: true, sourceRef: {kind: GitRepository, name: flux-system}}\n",
        "apps/base/web/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        "resources: [deployment.yaml, release.yaml]\n",
        "apps/base/web/deployment.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
        f"spec: {{template: {{spec: {{containers: [{{name: web, image: '{app}:latest'}}]}}}}}}\n",
        "apps/base/web/release.yaml": "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: podinfo}\n"
        f"spec:\n  chart: {{spec: {{chart: podinfo}}}}\n  values:\n    image:\n      repository: {app}\n      tag: latest\n      digest: ''\n",
        "apps/production/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        "resources: [../base/web, worker.yaml]\n"
        f"images:\n- name: worker\n  newName: {app}\n  newTag: latest\n",
        "apps/production/worker.yaml": "apiVersion: batch/v1\nkind: Job\nmetadata: {name: worker}\n"
        "spec: {template: {spec: {containers: [{name: worker, image: worker}]}}}\n",
    }


def argo(server: Server) -> dict[str, str]:
    """The layout of Argo CD's examples: a folder for each Application, with plain manifests or a kustomization."""
    app = f"{server.address}/shop/app"
    return {
        "apps/guestbook.yaml": "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: guestbook}\n"
        "spec: {source: {repoURL: 'https://git.test/x.git', path: kustomize-guestbook, targetRevision: main}}\n",
        "kustomize-guestbook/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"namePrefix: kustomize-\nresources: [ui.yaml]\nimages:\n- name: ui\n  newName: {app}\n  newTag: latest\n",
        "kustomize-guestbook/ui.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: ui}\n"
        "spec: {template: {spec: {containers: [{name: ui, image: ui}]}}}\n",
    }


def deploy(folder: Path, *more: str) -> Run:
    return program.call("deploy", "--git-branch", "production", *more, cwd=folder)


def rollback(folder: Path, *more: str) -> Run:
    return program.call("rollback", "--git-branch", "production", *more, cwd=folder)


def locked(folder: Path, server: Server, commit: str = "production") -> str:
    """The digest of shop/app:latest in the lock of a commit."""
    [found] = [
        each.digest
        for each in parse_lock(git(folder, "show", f"{commit}:boltseal.lock").encode()).images
        if str(each.reference.repository) == "shop/app"
    ]
    return str(found)


def state(folder: Path) -> tuple[str, str, bytes, dict[str, bytes]]:
    """HEAD, status, index and files of a work tree."""
    files = {str(each): each.read_bytes() for each in folder.rglob("*") if each.is_file() and ".git" not in each.parts}
    return (
        git(folder, "rev-parse", "HEAD"),
        git(folder, "status", "--porcelain"),
        (folder / ".git/index").read_bytes(),
        files,
    )


@pytest.fixture
def repository(tmp_path: Path, server: Server) -> Path:
    """Flux's layout, with the image that it names in the registry."""
    publish(server, OLD)
    return committed(tmp_path / "fleet", flux(server))


def test_every_image_of_a_flux_layout_is_pinned_in_one_commit(repository: Path, server: Server) -> None:
    """A manifest, an overlay's `images` and the values of a HelmRelease get their digests; the message has the explanation."""
    done = deploy(repository, "--json")
    changed = git(repository, "diff", "--unified=0", "main", "production", "--", "apps")

    assert done.code == 0, done.err
    assert git(repository, "rev-parse", "production^") == git(repository, "rev-parse", "main")
    assert done.json["results"][0]["commit"] == git(repository, "rev-parse", "production")
    assert git(repository, "diff", "--name-only", "main", "production").split() == [
        "apps/base/web/deployment.yaml",
        "apps/base/web/release.yaml",
        "apps/production/kustomization.yaml",
        "boltseal.lock",
    ]
    assert [line for line in changed.splitlines() if line.startswith(("+ ", "+s"))] == [
        f"+spec: {{template: {{spec: {{containers: [{{name: web, image: '{server.address}/shop/app:latest@{OLD.digest}'}}]}}}}}}",
        f"+      digest: '{OLD.digest}'",
        f"+  newTag: latest@{OLD.digest}",
    ]
    message = git(repository, "log", "-1", "--format=%B", "production")
    assert message.splitlines()[0] == f"deploy: {server.address}/shop/app:latest"
    assert f"new         {OLD.digest}" in message


def test_work_tree_and_index_stay_as_they_are(repository: Path) -> None:
    """Changed, staged and new files of the user are neither read nor touched."""
    (repository / "apps/base/web/deployment.yaml").write_text("changed: {image: nowhere.test/x:1}\n")
    (repository / "staged.yaml").write_text("kind: List\n")
    git(repository, "add", "staged.yaml")
    (repository / "new.yaml").write_text("containers: [{image: nowhere.test/y:1}]\n")
    git(repository, "status")
    before = state(repository)
    done = deploy(repository)

    assert done.code == 0, done.err
    assert state(repository) == before


def test_an_unchanged_branch_gets_no_commit(repository: Path) -> None:
    """A second deploy commits nothing."""
    first = deploy(repository)
    tip = git(repository, "rev-parse", "production")
    again = deploy(repository)

    assert (first.code, again.code) == (0, 0)
    assert again.out == f"production is up to date at commit {tip[:12]}; nothing was committed\n"
    assert git(repository, "rev-parse", "production") == tip


def test_variables_of_a_git_hook_name_no_other_repository(
    repository: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project's folder says which repository it is, also in a hook of another one, where git sets GIT_DIR."""
    other = committed(tmp_path / "other", flux(server))
    with monkeypatch.context() as hook:
        hook.setenv("GIT_DIR", str(other / ".git"))
        hook.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
        hook.setenv("GIT_WORK_TREE", str(other))
        done = deploy(repository)

    assert done.code == 0, done.err
    assert locked(repository, server)
    assert git(other, "branch", "--list", "production") == ""


def test_an_argo_layout_is_pushed_to_its_remote(tmp_path: Path, server: Server) -> None:
    """With a remote its branch is deployed, also the one that is checked out here; this repository's branch stays."""
    publish(server, OLD)
    work = committed(tmp_path / "work", argo(server))
    git(tmp_path, "clone", "--quiet", "--bare", str(work), "origin.git")
    git(work, "remote", "add", "origin", str(tmp_path / "origin.git"))
    before = state(work)
    done = program.call("deploy", "--git-branch", "main", "--git-remote", "origin", cwd=work)
    pushed = git(tmp_path / "origin.git", "show", "main:kustomize-guestbook/kustomization.yaml")

    assert done.code == 0, done.err
    assert pushed.splitlines()[-1] == f"  newTag: latest@{OLD.digest}"
    assert state(work) == before
    assert "pushed to main of origin: commit" in done.out


def test_a_rollback_holds_what_it_took_back(repository: Path, server: Server) -> None:
    """After a rollback no update takes the digest again, here and in a checkout, until the hold is ended."""
    deploy(repository)
    publish(server, NEW)
    kept = deploy(repository)
    updated = deploy(repository, "--update")
    moved = locked(repository, server)
    back = rollback(repository)
    held = program.call("release", "hold", "--git-branch", "production", cwd=repository)
    again = deploy(repository, "--update")
    git(repository, "checkout", "--quiet", "--detach", "production")
    checkout = program.call("lock", "--update", cwd=repository)
    after = locked(repository, server)
    ended = program.call("release", "hold", "--end", "--git-branch", "production", cwd=repository)
    taken = deploy(repository, "--update")

    assert "nothing was committed" in kept.out
    assert (updated.code, moved) == (0, NEW.digest)
    assert "old" in git(repository, "log", "-1", "--format=%b", "production~3")
    assert (back.code, after) == (0, OLD.digest), back.err
    assert (held.code, ended.code) == (1, 0)
    assert NEW.digest in held.out
    assert again.code == 0
    assert "is not updated: held by boltseal.holds" in again.err
    assert "is not updated: held by boltseal.holds" in checkout.err
    assert (taken.code, locked(repository, server)) == (0, NEW.digest)
    assert git(repository, "show", "--name-only", "--format=%s", "production^").splitlines() == [
        "release hold: end what a rollback holds",
        "",
        HOLDS_NAME,
    ]


def test_a_rollback_restores_each_pinned_file(repository: Path, server: Server) -> None:
    """The files have the bytes of the earlier release again, and later changes of other files stay."""
    deploy(repository)
    publish(server, NEW)
    deploy(repository, "--update")
    git(repository, "checkout", "--quiet", "production")
    (repository / "README.md").write_text("ours\n")
    git(repository, "add", "README.md")
    git(repository, "commit", "--quiet", "-m", "ours")
    git(repository, "checkout", "--quiet", "--detach")
    back = rollback(repository)

    assert back.code == 0, back.err
    assert git(repository, "diff", "--name-only", "production~3", "production").split() == ["README.md", HOLDS_NAME]
    assert rollback(repository).code == 1


def test_files_with_other_images_go_back_only_as_a_whole(repository: Path, server: Server) -> None:
    """A release with another tag is not taken back by digest; --restore-files takes the whole folder from it."""
    deploy(repository)
    publish(server, NEW, "2")
    git(repository, "checkout", "--quiet", "production")
    file = repository / "apps/base/web/deployment.yaml"
    file.write_text(file.read_text().replace(f":latest@{OLD.digest}", ":2"))
    git(repository, "commit", "--quiet", "-a", "-m", "Version 2")
    git(repository, "checkout", "--quiet", "--detach")
    second = deploy(repository)
    refused = rollback(repository)
    whole = rollback(repository, "--restore-files")

    assert (second.code, refused.code, whole.code) == (0, 1, 0), (second.err, whole.err)
    assert "--restore-files takes the whole folder from that commit" in refused.err
    assert git(repository, "diff", "--name-only", "production~3", "production").split() == [HOLDS_NAME]


def test_a_held_digest_is_not_deployed(repository: Path, server: Server) -> None:
    """A lock that has the held digest again, by a merge, is refused."""
    deploy(repository)
    publish(server, NEW)
    deploy(repository, "--update")
    bad = git(repository, "show", "production:boltseal.lock")
    rollback(repository)
    git(repository, "checkout", "--quiet", "production")
    (repository / "boltseal.lock").write_text(bad + "\n")
    git(repository, "commit", "--quiet", "-a", "-m", "Merge")
    git(repository, "checkout", "--quiet", "--detach")
    tip = git(repository, "rev-parse", "production")
    done = deploy(repository)

    assert done.code == 1
    assert "is held by boltseal.holds" in done.err
    assert git(repository, "rev-parse", "production") == tip


def test_overrides_of_argo_and_flux_are_pinned(repository: Path, server: Server) -> None:
    """Images that an Application of Argo CD or a Kustomization of Flux puts in place of others are pinned there."""
    app = f"{server.address}/shop/app:latest"
    written(
        repository,
        {
            "application.yaml": "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: a}\n"
            f"spec:\n  source:\n    kustomize:\n      images: ['nginx={app}', \"{app}\"]\n",
            "flux.yaml": "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: a}\n"
            f"spec:\n  images:\n  - name: nginx\n    newName: {app.removesuffix(':latest')}\n    newTag: latest\n",
        },
    )
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Overrides")
    done = deploy(repository)

    assert done.code == 0, done.err
    pinned = f"{app}@{OLD.digest}"
    assert f"images: ['nginx={pinned}', \"{pinned}\"]" in git(repository, "show", "production:application.yaml")
    assert git(repository, "show", "production:flux.yaml").endswith(f"newTag: latest@{OLD.digest}")


def test_an_image_without_a_place_for_its_digest_refuses_the_commit(repository: Path) -> None:
    """A branch of which one image would be deployed without a digest gets no commit."""
    release = repository / "apps/base/web/release.yaml"
    release.write_text(release.read_text().replace("      digest: ''\n", ""))
    git(repository, "commit", "--quiet", "-a", "-m", "No place")
    done = deploy(repository)

    assert done.code == 1
    assert "1 image would be deployed without a digest; nothing was committed: apps/base/web/release.yaml:9" in done.err
    assert git(repository, "branch", "--list", "production") == ""


def test_what_is_given_is_checked(repository: Path, tmp_path: Path) -> None:
    """A branch that is checked out, an invalid name, an unknown remote and a folder outside of git are refused in one line."""
    outside = tmp_path / "outside"
    outside.mkdir()
    runs = [
        program.call("deploy", "--git-branch", "main", cwd=repository),
        program.call("deploy", "--git-branch", "a..b", cwd=repository),
        program.call("deploy", "--git-branch", "-x", cwd=repository),
        program.call("deploy", "--git-branch", "x", "--git-remote", "none", cwd=repository),
        program.call("deploy", "--git-remote", "none", cwd=repository),
        program.call("deploy", "--git-branch", "x", "--build", cwd=repository),
        program.call("deploy", "--git-branch", "x", cwd=outside),
        program.call("rollback", "--to", "x", "--git-branch", "x", cwd=repository),
    ]

    assert [run.code for run in runs] == [2, 2, 2, 2, 2, 2, 2, 1]
    assert all(run.err.count("\n") == 1 for run in runs), [run.err for run in runs]


def test_a_branch_that_moved_meanwhile_is_not_overwritten(repository: Path, tmp_path: Path) -> None:
    """The commit of another person stays; in this repository and at a remote."""
    git(repository, "branch", "production")
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), "origin.git")
    git(repository, "remote", "add", "origin", str(tmp_path / "origin.git"))
    for remote, place in (("", repository), ("origin", tmp_path / "origin.git")):
        opened = open_branch(repository, os.environ, "production", remote)
        ours = opened.commit(opened.start, {"a": b"ours"}, "ours\n")
        other = git(place, "commit-tree", "production^{tree}", "-p", "production", "-m", "other")
        git(place, "update-ref", "refs/heads/production", other)

        with pytest.raises(BranchMoved):
            opened.move(ours, "test")
        assert git(place, "rev-parse", "production") == other


PROXY = """#!/bin/sh
# The git of this test: it fails before or after a command, or kills the program that called it.
n=$(( $(cat "$COUNT" 2>/dev/null || echo 0) + 1 )); echo $n > "$COUNT"
case "$* " in *" $FAIL_AT "*) named=1;; esac
[ "$FAIL" = before ] && [ -n "$named" ] && { echo "fatal: not done" >&2; exit 1; }
GIT "$@"; code=$?
[ "$FAIL" = after ] && [ -n "$named" ] && { echo "fatal: the answer is lost" >&2; exit 1; }
[ "$FAIL" = kill-after ] && [ "$n" = "$FAIL_AT" ] && { kill -9 $PPID; exit 1; }
exit $code
"""


@pytest.fixture
def proxy(tmp_path: Path) -> dict[str, str]:
    """An environment in which `git` is PROXY."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").write_text(PROXY.replace("GIT ", f"{shutil.which('git')} "))
    (folder / "git").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "COUNT": str(tmp_path / "count")}


@pytest.mark.parametrize("remote", ["", "origin"])
def test_a_move_whose_answer_is_lost_counts_if_it_was_done(
    repository: Path, tmp_path: Path, proxy: dict[str, str], remote: str
) -> None:
    """Done with the answer lost is success; not done is an error, and the branch is unchanged."""
    git(repository, "branch", "production")
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), "origin.git")
    git(repository, "remote", "add", "origin", str(tmp_path / "origin.git"))
    step, place = ("push", tmp_path / "origin.git") if remote else ("update-ref", repository)
    for fail in ("before", "after"):
        opened = open_branch(repository, {**os.environ, **proxy, "FAIL": fail, "FAIL_AT": step}, "production", remote)
        commit = opened.commit(opened.start, {"a": fail.encode()}, f"{fail}\n")
        if fail == "before":
            with pytest.raises(GitFailed):
                opened.move(commit, "test")
            assert git(place, "rev-parse", "production") == opened.tip
        else:
            opened.move(commit, "test")
            assert git(place, "rev-parse", "production") == commit


def test_a_kill_at_any_step_leaves_the_old_or_the_new_commit(
    repository: Path, server: Server, proxy: dict[str, str], tmp_path: Path
) -> None:
    """The program is killed before and after each of its runs of git. The branch is whole, and the next deploy completes."""
    deploy(repository)
    publish(server, NEW)
    old, before = git(repository, "rev-parse", "production"), state(repository)
    ends = set()
    for number in range(40):  # killed after each step is killed before the next
        (tmp_path / "count").unlink(missing_ok=True)
        killing = {**proxy, **NAMED, "HOME": str(tmp_path), "FAIL": "kill-after", "FAIL_AT": str(number + 1)}
        done = program.run("deploy", "--git-branch", "production", "--update", environment=killing, cwd=repository)
        now = git(repository, "rev-parse", "production")
        ends.add((done.code == 0, now == old))
        assert now == old or (
            git(repository, "rev-parse", "production^") == old and locked(repository, server) == NEW.digest
        )
        assert state(repository) == before
        git(repository, "update-ref", "refs/heads/production", old)
        if done.code == 0:
            break

    assert ends == {(False, True), (False, False), (True, False)}
    assert git(repository, "fsck", "--no-dangling") == ""
    assert deploy(repository, "--update").code == 0


def test_of_two_people_at_once_one_commits(repository: Path, server: Server, tmp_path: Path) -> None:
    """Two deploys of one remote branch at once: one commit; the other has nothing to do, or fails because the branch moved."""
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), "origin.git")
    clones = [tmp_path / "one", tmp_path / "two"]
    for each in clones:
        git(tmp_path, "clone", "--quiet", str(tmp_path / "origin.git"), str(each))

    def run(folder: Path) -> Run:
        environment = {**NAMED, "HOME": str(tmp_path)}
        return program.run(
            "deploy", "--git-branch", "main", "--git-remote", "origin", environment=environment, cwd=folder
        )

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(run, clones))

    assert git(tmp_path / "origin.git", "rev-list", "--count", "main") == "2"
    assert sorted(each.code for each in done) in ([0, 0], [0, 3])
    for result in done:
        assert "commit" in result.out if result.code == 0 else "moved from" in result.err


def test_a_path_that_leaves_the_folder_is_refused(repository: Path) -> None:
    """A commit whose tree has `..` as a name is not written anywhere."""
    blob = git(repository, "rev-parse", "main:apps/production/kustomization.yaml")
    made = subprocess.run(
        ["git", "mktree"], cwd=repository, input=f"100644 blob {blob}\t..\n", text=True, capture_output=True, check=True
    )
    commit = git(repository, "commit-tree", made.stdout.strip(), "-m", "bad")
    git(repository, "update-ref", "refs/heads/production", commit)
    done = deploy(repository)

    assert done.code == 3
    assert 'has the path ".."' in done.err


def test_a_folder_that_takes_files_from_outside_is_refused(repository: Path) -> None:
    """An overlay that takes `../base`, also over a link, is not deployed alone: images of the base would not be pinned."""
    overlay = repository / "apps/production"
    direct = deploy(overlay)
    text = (overlay / "kustomization.yaml").read_text()
    (overlay / "kustomization.yaml").write_text(text.replace("../base/web", "linked/web"))
    (overlay / "linked").symlink_to("../base")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Link")
    linked = deploy(overlay)
    whole = deploy(repository / "apps")

    assert (direct.code, linked.code, whole.code) == (1, 1, 0), whole.err
    assert (
        "folder apps/production of production is not all of it: kustomization.yaml takes ../base/web; these images would not be "
        "pinned; nothing was committed"
    ) in direct.err
    assert "kustomization.yaml takes linked/web" in linked.err


@pytest.mark.parametrize(
    "entry",
    [
        "resources: [https://git.test/shop.git//base?ref=v1]",
        "resources: [github.com/shop/base]",
        "bases: ['git@git.test:shop/base.git']",
        "components: [ssh://git@git.test/shop/base]",
        "resources: [nowhere.yaml]",
        "helmCharts: [{name: web, repo: 'https://charts.test'}]",
        "helmCharts: [{name: web, repo: 'oci://charts.test/shop'}]",
    ],
)
def test_a_base_from_elsewhere_is_found(tmp_path: Path, entry: str) -> None:
    """Images of a remote base or chart would not be pinned, so a kustomization that takes one is not all of its project."""
    written(
        tmp_path,
        {"app/kustomization.yaml": f"{entry}\n", "app/web.yaml": "kind: List\n", "base/x.yaml": "kind: List\n"},
    )
    [(path, found)] = outside_files(tmp_path)

    assert path == "app/kustomization.yaml"
    assert found in entry
    written(tmp_path, {"app/kustomization.yaml": "resources: [web.yaml, ../base]\nhelmCharts: [{name: web}]\n"})
    assert outside_files(tmp_path) == []


def test_a_remote_base_is_refused(repository: Path) -> None:
    """A branch with a base at a URL gets no commit."""
    overlay = repository / "apps/production/kustomization.yaml"
    overlay.write_text(overlay.read_text().replace("../base/web", "https://git.test/shop.git//base?ref=v1"))
    git(repository, "commit", "--quiet", "-a", "-m", "Remote")
    done = deploy(repository)

    assert done.code == 1
    assert "apps/production/kustomization.yaml takes https://git.test/shop.git//base?ref=v1" in done.err
    assert "copy a remote base into it" in done.err
    assert git(repository, "branch", "--list", "production") == ""


def test_a_rollback_of_an_argo_layout_is_a_commit_at_its_remote(tmp_path: Path, server: Server) -> None:
    """The controller goes back with the branch; `lock --update` of a checkout and the next deploy leave what is held."""
    publish(server, OLD)
    work = committed(tmp_path / "work", argo(server))
    git(tmp_path, "clone", "--quiet", "--bare", str(work), "origin.git")
    git(work, "remote", "add", "origin", str(tmp_path / "origin.git"))
    where = ("--git-branch", "main", "--git-remote", "origin")
    program.call("deploy", *where, cwd=work)
    publish(server, NEW)
    program.call("deploy", *where, "--update", cwd=work)
    taken = git(tmp_path / "origin.git", "show", "main:kustomize-guestbook/kustomization.yaml")
    back = program.call("rollback", *where, cwd=work)
    held = program.call("deploy", *where, "--update", cwd=work)
    git(tmp_path, "clone", "--quiet", "origin.git", "checkout")
    updated = program.call("lock", "--update", cwd=tmp_path / "checkout")
    origin = tmp_path / "origin.git"

    assert taken.endswith(f"newTag: latest@{NEW.digest}")
    assert (back.code, held.code) == (0, 0), back.err + held.err
    assert git(origin, "show", "main:kustomize-guestbook/kustomization.yaml").endswith(f"newTag: latest@{OLD.digest}")
    assert git(origin, "show", "--name-only", "--format=", "main").split() == [
        "boltseal.holds", "boltseal.lock", "kustomize-guestbook/kustomization.yaml",
    ]  # fmt: skip
    assert "is not updated: held by boltseal.holds" in held.err
    assert "is not updated: held by boltseal.holds" in updated.err


def test_a_folder_without_images_is_refused(repository: Path) -> None:
    """An empty lock is not committed."""
    (repository / "docs").mkdir()
    (repository / "docs/README.md").write_text("nothing\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Docs")
    done = deploy(repository / "docs")

    assert done.code == 1
    assert "folder docs of production has no image; nothing was committed" in done.err
    assert git(repository, "branch", "--list", "production") == ""


def test_submodules_are_reported_as_not_pinned(repository: Path, tmp_path: Path) -> None:
    """A submodule's files are in another repository; the output names it."""
    other = committed(tmp_path / "other", {"a.txt": "a"})
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "apps/vendored")
    git(repository, "commit", "--quiet", "-m", "Submodule")
    done = deploy(repository)

    assert done.code == 0, done.err
    assert "not pinned: apps/vendored is a submodule, whose files are in another repository" in done.err
    assert "apps/vendored" in git(repository, "ls-tree", "-r", "production")


@pytest.mark.parametrize("whole", [(), ("--restore-files",)])
def test_going_forward_again_ends_the_hold_of_what_it_restores(
    repository: Path, server: Server, whole: tuple[str, ...]
) -> None:
    """`rollback --to` a release that was taken back deploys its digest, which is held no more; what it replaces is held."""
    deploy(repository)
    publish(server, NEW)
    deploy(repository, "--update")
    forward = git(repository, "rev-parse", "production")
    rollback(repository)
    done = rollback(repository, "--to", forward, *whole)
    again = deploy(repository)

    assert (done.code, locked(repository, server)) == (0, NEW.digest), done.err
    assert (again.code, "nothing was committed" in again.out) == (0, True), again.err
    held = program.call("release", "hold", "--git-branch", "production", cwd=repository)
    assert OLD.digest in held.out
    assert NEW.digest not in held.out


def test_hints_name_the_branch_and_the_remote(repository: Path, server: Server) -> None:
    """A command that a message shows can be pasted."""
    deploy(repository)
    publish(server, NEW)
    deploy(repository, "--update")
    rollback(repository)
    git(repository, "remote", "add", "origin", str(repository))
    here = rollback(repository)
    there = rollback(repository, "--git-remote", "origin")

    assert "`boltseal rollback --git-branch production --to COMMIT`" in here.err
    assert "`boltseal rollback --git-branch production --git-remote origin --to COMMIT`" in there.err


def test_a_commit_without_an_identity_says_how_to_set_it(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git's own advice is lost with its hints, so the message has it."""
    for name in NAMED:
        monkeypatch.delenv(name)
    git(repository, "config", "user.useConfigOnly", "true")
    done = deploy(repository)

    assert done.code == 3
    assert "set who commits by `git config user.name NAME` and `git config user.email ADDRESS`" in done.err


def test_a_remote_is_read_where_it_is_pushed(repository: Path, server: Server, tmp_path: Path) -> None:
    """With a `pushurl` of its own the branch of that repository decides; with several a remote is refused."""
    read, pushed = tmp_path / "read.git", tmp_path / "pushed.git"
    for each in (read, pushed):
        git(repository, "clone", "--quiet", "--bare", str(repository), str(each))
    git(repository, "remote", "add", "origin", str(read))
    git(repository, "remote", "set-url", "--push", "origin", str(pushed))
    git(repository, "push", "--quiet", str(pushed), "main:production")
    done = deploy(repository, "--git-remote", "origin")
    again = deploy(repository, "--git-remote", "origin")
    git(repository, "remote", "set-url", "--push", "--add", "origin", str(read))
    several = deploy(repository, "--git-remote", "origin")

    assert (done.code, again.code, several.code) == (0, 0, 2), done.err
    assert locked(pushed, server) == OLD.digest
    assert "nothing was committed" in again.out
    assert "remote origin has 2 push URLs, expected one" in several.err


def test_a_huge_file_of_holds_is_not_read(repository: Path) -> None:
    """A file of the branch is read up to a limit."""
    (repository / HOLDS_NAME).write_bytes(b" " * (MAX_FILE_BYTES + 1))
    deploy(repository)
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "Huge")
    git(repository, "branch", "--force", "production")
    done = program.call("release", "hold", "--git-branch", "production", cwd=repository)

    assert done.code == 3
    assert f"{HOLDS_NAME} of commit" in done.err
    assert f"expected at most {MAX_FILE_BYTES}" in done.err
