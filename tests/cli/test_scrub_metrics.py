"""`boltseal scrub --metrics-file`: metrics for the textfile collector of node_exporter."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.cli import program
from tests.docs.pages import ROOT
from tests.host.scrub.made_stores import DockerStore, layer_tar
from tests.real.tools import run

CONTENT = {"etc/passwd": b"root", "bin/tool": b"tool" * 1000}


@pytest.fixture
def store(tmp_path: Path) -> DockerStore:
    """A store with one image."""
    made = DockerStore.at(tmp_path)
    made.image("shop/app:1.4.2", CONTENT)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of the metrics."""
    (tmp_path / "collector").mkdir()
    return tmp_path / "collector/scrub.prom"


def samples(file: Path) -> dict[str, float]:
    """Return the samples of a file without their prefix, by name and labels."""
    found = re.findall(r"^boltseal_scrub_(\S+) (\S+)$", file.read_text(), re.MULTILINE)
    return {name: float(value) for name, value in found}


SUCCESS = 'last_success_timestamp_seconds{mode="full"}'
LAST_RUN = 'last_run_timestamp_seconds{mode="full"}'


def result(status: str, what: str = "image") -> str:
    return f'results{{mode="full",status="{status}",what="{what}"}}'


def test_a_success_is_recorded(store: DockerStore, file: Path) -> None:
    """A run writes its time, its duration, the bytes that it read, and its results with zeros."""
    done = program.call("scrub", "--root", store.root, "--metrics-file", file)
    found = samples(file)

    assert done.code == 0
    assert found[SUCCESS] == found[LAST_RUN] > 1_700_000_000
    assert found['read_bytes{mode="full"}'] == len(layer_tar(CONTENT))
    assert 0 < found['duration_seconds{mode="full"}'] < 60
    assert (found[result("holds")], found[result("differs")], found[result("unknown", "store")]) == (1, 0, 0)


def test_a_difference_keeps_the_time_of_the_last_success(store: DockerStore, file: Path) -> None:
    """A run that finds a difference is no success, and keeps when the last one was."""
    program.call("scrub", "--root", store.root, "--metrics-file", file)
    former = re.sub(r"(last_\w+_timestamp_seconds\S+) \d+", r"\1 1700000000", file.read_text())
    file.write_text(former)
    (store.layer() / "etc/passwd").chmod(0o4755)
    done = program.call("scrub", "--root", store.root, "--metrics-file", file)
    found = samples(file)

    assert done.code == 1
    assert found[SUCCESS] == 1_700_000_000 < found[LAST_RUN]
    assert (found[result("holds")], found[result("differs")]) == (0, 1)


@pytest.mark.parametrize("former", ["9" * 15, "-1", "x", "1e9"])
def test_an_impossible_time_of_the_last_success_is_not_kept(store: DockerStore, file: Path, former: str) -> None:
    """A time after now, or no number, does not become the last success: it would hide missing ones for ever."""
    file.write_text(f"boltseal_scrub_{SUCCESS} {former}\n")
    (store.layer() / "etc/passwd").chmod(0o4755)
    program.call("scrub", "--root", store.root, "--metrics-file", file)
    found = samples(file)

    assert found[SUCCESS] in {0, found[LAST_RUN]}


def test_a_run_that_fails_is_recorded(tmp_path: Path, file: Path) -> None:
    """A run that could not begin is a run without a success."""
    done = program.call("scrub", "--root", tmp_path, "--metrics-file", file)
    found = samples(file)

    assert done.code == 2
    assert (found[SUCCESS], found[LAST_RUN] > 0) == (0, True)


@pytest.mark.parametrize(("more", "code"), [([], 3), (["--allow-empty"], 0)])
def test_an_empty_store_is_a_success_only_if_it_may_be_empty(
    tmp_path: Path, file: Path, more: list[str], code: int
) -> None:
    """A run that found no image is a success only with --allow-empty."""
    empty = DockerStore.at(tmp_path / "empty")
    done = program.call("scrub", "--root", empty.root, "--metrics-file", file, *more)

    assert done.code == code
    assert (samples(file)[SUCCESS] > 0) is (code == 0)


@pytest.mark.parametrize("differs", [False, True])
def test_metrics_that_can_not_be_written_hide_no_result(store: DockerStore, tmp_path: Path, differs: bool) -> None:
    """Results are printed although the metrics can't be written, which is "could not check" unless something differs."""
    if differs:
        (store.layer() / "etc/passwd").chmod(0o4755)
    done = program.call("scrub", "--root", store.root, "--metrics-file", tmp_path / "none/scrub.prom")

    assert done.code == (1 if differs else 3)
    assert done.out.startswith("DIFFERS" if differs else "holds L0")
    assert "the metrics can't be written: No such file or directory" in done.err


def test_the_collector_may_read_the_metrics_and_finds_no_partial_file(store: DockerStore, file: Path) -> None:
    """The file is readable for the collector whatever the umask is, and the only one in the folder."""
    before = os.umask(0o077)
    try:
        program.call("scrub", "--root", store.root, "--metrics-file", file)
    finally:
        os.umask(before)

    assert oct(file.stat().st_mode & 0o777) == "0o644"
    assert list(file.parent.iterdir()) == [file]


def test_quick_runs_have_a_success_of_their_own(store: DockerStore, file: Path) -> None:
    """The metrics of a quick run have another label, so that it is never taken for a full one."""
    program.call("scrub", "--root", store.root, "--metrics-file", file, "--quick")

    assert 'last_success_timestamp_seconds{mode="quick"}' in samples(file)
    assert SUCCESS not in samples(file)
    assert samples(file)['read_bytes{mode="quick"}'] == 0


@pytest.mark.real
def test_promtool_accepts_the_metrics_of_a_scrub(store: DockerStore, file: Path) -> None:
    """`promtool check metrics` accepts names, units, types and help texts."""
    program.call("scrub", "--root", store.root, "--metrics-file", file)
    checked = run("promtool", "check", "metrics", stdin=file.read_bytes())

    assert (checked.ok, checked.text) == (True, "")


@pytest.mark.real
def test_promtool_accepts_the_alert_rules_of_scrubs() -> None:
    """The alert rules are valid, and fire or stay silent as their test file states."""
    checked = run("promtool", "check", "rules", ROOT / "packaging/monitoring/scrub-alerts.yaml").checked()
    tested = run("promtool", "test", "rules", ROOT / "tests/data/monitoring/scrub_alerts_test.yaml").checked()

    assert "SUCCESS: 3 rules found" in checked
    assert "SUCCESS" in tested


def test_the_alert_rules_use_only_metrics_that_a_scrub_writes(store: DockerStore, file: Path) -> None:
    """Each metric of the alert rules is in the file of a run."""
    program.call("scrub", "--root", store.root, "--metrics-file", file, "--share", "1/7")
    rules = (ROOT / "packaging/monitoring/scrub-alerts.yaml").read_text(encoding="utf-8")
    used = set(re.findall(r"boltseal_scrub_\w+", rules))

    assert used
    assert used <= set(re.findall(r"^# TYPE (\S+) gauge$", file.read_text(), re.MULTILINE))
