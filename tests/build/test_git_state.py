"""What git reports about a folder, with the real git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from boltseal.build.git_state import GitState, git_state, public_source
from boltseal.files.named_files import FileMissing
from boltseal.project.git_program import GitFailed, NotGit


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *who, "-c", "protocol.file.allow=always", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, without this user's git configuration."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    return made(tmp_path / "project")


def made(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "app.py").write_text("print(1)\n")
    (folder / ".gitignore").write_text("*.pyc\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "First")
    return folder


def dirt(folder: Path) -> str | None:
    return git_state(folder, os.environ).dirt


def test_a_clean_folder_is_named_by_its_tag(repository: Path) -> None:
    """A folder without changes is named by its tag, or by its commit if it has none."""
    head = git(repository, "rev-parse", "HEAD")
    untagged = git_state(repository, os.environ)
    git(repository, "tag", "v1.4.2")

    assert untagged == GitState(head, head[:12], None, "", shallow=False)
    assert git_state(repository / ".", os.environ).described == "v1.4.2"


def test_a_commit_after_the_tag_has_its_number_and_hash(repository: Path) -> None:
    """The description has the number of commits since the tag, and always twelve digits of the hash."""
    git(repository, "tag", "v1.4.2")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "Second")

    assert git_state(repository, os.environ).described == f"v1.4.2-1-g{git(repository, 'rev-parse', 'HEAD')[:12]}"


def test_every_kind_of_change_is_seen_and_gives_another_hash(repository: Path) -> None:
    """Changed, added, staged, removed, executable and linked files change the hash; ignored files do not."""
    app, found = repository / "app.py", []
    (repository / "app.pyc").write_text("ignored")
    assert dirt(repository) is None
    app.write_text("print(2)\n")
    found.append(dirt(repository))
    (repository / "über.txt").write_text("")
    found.append(dirt(repository))
    app.chmod(0o755)
    found.append(dirt(repository))
    app.unlink()
    found.append(dirt(repository))
    app.symlink_to("elsewhere")
    found.append(dirt(repository))

    assert None not in found
    assert len(set(found)) == 5


def test_equal_changes_have_one_hash_in_every_clone(repository: Path) -> None:
    """Equal changes have one hash in every clone, staged or not, at any time."""
    other = repository.parent / "clone"
    git(repository.parent, "clone", "--quiet", str(repository), "clone")
    for folder in (repository, other):
        (folder / "app.py").write_text("print(2)\n")
    git(other, "add", ".")
    os.utime(other / "app.py", (1, 1))

    assert dirt(repository) == dirt(other)


def test_going_back_is_clean_again(repository: Path) -> None:
    """Undoing all changes gives a clean state, since nothing is remembered."""
    (repository / "app.py").write_text("print(2)\n")
    (repository / "app.py").write_text("print(1)\n")

    assert dirt(repository) is None


def test_a_changed_submodule_makes_the_repository_dirty(repository: Path) -> None:
    """Changed files in a submodule make the folder dirty, because they change the built image."""
    inner = made(repository.parent / "inner")
    git(repository, "submodule", "--quiet", "add", str(inner), "lib")
    git(repository, "commit", "--quiet", "-m", "Add lib")
    assert dirt(repository) is None
    (repository / "lib/app.py").write_text("print(2)\n")
    first = dirt(repository)
    (repository / "lib/app.py").write_text("print(3)\n")

    assert first is not None
    assert dirt(repository) not in (None, first)


def test_a_named_pipe_does_not_block(repository: Path) -> None:
    """A named pipe among the files is not read, so the check does not block."""
    (repository / "app.py").unlink()
    os.mkfifo(repository / "app.py")

    assert dirt(repository) is not None


def test_reading_the_state_runs_no_program_and_changes_nothing(repository: Path) -> None:
    """A repository's configuration may name programs for git to run, and git refreshes its index on its own."""
    git(repository, "config", "core.fsmonitor", f"touch {repository}/.git/ran; false")
    os.utime(repository / "app.py", (1, 1))
    before = (repository / ".git/index").read_bytes()
    git_state(repository, os.environ)

    assert not (repository / ".git/ran").exists()
    assert (repository / ".git/index").read_bytes() == before


def test_a_shallow_clone_is_reported(repository: Path) -> None:
    """A shallow clone may lack tags, so its image could get another tag than that of a full clone."""
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "Second")
    git(repository.parent, "clone", "--quiet", "--depth=1", f"file://{repository}", "shallow")

    assert git_state(repository.parent / "shallow", os.environ).shallow


def test_a_folder_without_git_or_without_a_commit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without git or without a commit is refused, because no name can be derived from it."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(NotGit, match="is in no git repository"):
        git_state(tmp_path, os.environ)
    git(tmp_path, "init", "--quiet")
    with pytest.raises(NotGit, match="has no commit yet"):
        git_state(tmp_path, os.environ)


def test_without_git_the_state_is_unknown(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git the state is unknown, which is not clean."""
    monkeypatch.setenv("PATH", str(repository))
    with pytest.raises(GitFailed, match="is it installed"):
        git_state(repository, os.environ)


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ("https://user:s3cret@github.com/team/app.git", "https://github.com/team/app"),
        ("https://s3cret@github.com/team/app", "https://github.com/team/app"),
        ("https://github.com/team/app?token=s3cret#x", "https://github.com/team/app"),
        ("http://git.example.com:8080/team/app.git", "http://git.example.com:8080/team/app"),
        ("git@github.com:team/app.git", "https://github.com/team/app"),
        ("ssh://git@git.example.com:2222/team/app.git", "https://git.example.com/team/app"),
        ("/srv/git/app.git", ""),
        ("file:///srv/git/app.git", ""),
        ("", ""),
        ("https://github.com/team/a app", "https://github.com/team/a-app"),
    ],
)
def test_the_source_is_a_public_address_without_secrets(origin: str, source: str) -> None:
    """The source label has a public address without credentials, since labels are public for ever."""
    assert public_source(origin) == source


@pytest.mark.parametrize("kind", ["clean", "process"])
def test_a_filter_of_the_repository_is_not_run(repository: Path, kind: str) -> None:
    """A filter from the repository's configuration is not run, even when git would compare contents."""
    git(repository, "config", f"filter.Evil.{kind}", f"touch {repository}/.git/ran; cat")
    git(repository, "config", "filter.Evil.required", "true")
    (repository / ".git/info").mkdir(exist_ok=True)
    (repository / ".git/info/attributes").write_text("*.py filter=Evil\n")
    os.utime(repository / "app.py", (1, 1))

    assert git_state(repository, os.environ).dirt is None
    assert not (repository / ".git/ran").exists()


def test_a_filter_that_can_not_be_disabled_ends_the_query(repository: Path) -> None:
    """If a filter's name can't be disabled on git's command line, git is not run at all."""
    git(repository, "config", "filter.a=b.clean", f"touch {repository}/.git/ran; cat")

    with pytest.raises(GitFailed, match="configuration has a filter"):
        git_state(repository, os.environ)
    assert not (repository / ".git/ran").exists()


def test_a_filter_of_the_users_own_configuration_is_run(repository: Path) -> None:
    """A filter of the user's own configuration, such as git-lfs, runs; without it every large file would seem changed."""
    git(repository, "config", "--global", "filter.big.clean", "sed s/2/1/")
    (repository / "app.py").write_text("print(2)\n")
    (repository / ".git/info").mkdir(exist_ok=True)
    (repository / ".git/info/attributes").write_text("*.py filter=big\n")

    assert git_state(repository, os.environ).dirt is None


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    """The error names the folder, and not git."""
    with pytest.raises(FileMissing, match="no such file or folder"):
        git_state(tmp_path / "none", os.environ)


def test_variables_of_a_hook_name_no_other_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git sets GIT_DIR for its hooks; the folder says which repository is described."""
    expected = git_state(repository, os.environ)
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))

    assert git_state(repository, os.environ) == expected
