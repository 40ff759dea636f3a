"""-q and -v before and after the command; errors as JSON, also of usage; a closed output."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import program
from tests.fakes.upstream import FakeUpstream
from tests.images import image

SHOP = "shop/app"


@pytest.mark.parametrize("where", ["before", "after"])
def test_v_prints_each_request_on_stderr(where: str) -> None:
    """-v prints method, URL, status and time of each request on stderr, and leaves stdout unchanged."""
    with FakeUpstream().listening_in_thread() as upstream:
        app = upstream.publish(SHOP, "1.4.2", image("app"))
        words = ["digest", f"{upstream.authority}/{SHOP}:1.4.2"]
        result = program.call(*(["-v", *words] if where == "before" else [*words, "-v"]))
        plain = program.call(*words)

    line = rf"^HEAD http://{upstream.authority}/v2/{SHOP}/manifests/1\.4\.2 200 [0-9]+ ms$"
    assert (result.code, result.out) == (0, f"{app.digest}\n")
    assert re.search(line, result.err, re.MULTILINE)
    assert "HEAD" not in plain.err


@pytest.mark.parametrize("where", ["before", "after"])
def test_q_omits_notices_and_no_error(where: str, tmp_path: Path) -> None:
    """-q omits notices, but prints errors and keeps the exit code."""
    (tmp_path / "compose.yaml").write_text("services: {web: {image: nginx}}\n")
    words = ["verify", "--offline", "--project", str(tmp_path)]
    result = program.call(*(["-q", *words] if where == "before" else [*words, "-q"]))
    failed = program.call("-q", "explain", "UPPER")

    assert (result.code, result.err) == (1, "")
    assert "not-pinned" in result.out
    assert (failed.code, failed.err.startswith("boltseal: ")) == (2, True)


@pytest.mark.parametrize(
    ("words", "schema", "message"),
    [
        (["digest", "--json"], "boltseal.digest/1", "Missing argument"),
        (["tag", "seal", "--json", "--nope"], "boltseal.tag-seal/1", "No such option: --nope"),
        (["watch", "a", "--every", "3", "--json"], "boltseal.watch/1", "Invalid value for '--every'"),
        (["verify", "--running", "x", "--json"], "boltseal.verify/1", "--running checks hosts"),
        (["nothing", "--json"], "boltseal.boltseal/1", 'no command "nothing"'),
    ],
)
def test_json_reports_errors_of_usage(words: list[str], schema: str, message: str) -> None:
    """A usage error with --json is one object on stdout, a line on stderr, and exit code 2."""
    result = program.call(*words)

    assert result.code == 2
    assert (result.json["schema"], result.json["outcome"], result.json["results"]) == (schema, "unknown", [])
    assert [each["code"] for each in result.json["errors"]] == ["INVALID"]
    assert message in result.json["errors"][0]["message"]
    assert message in result.err


def test_json_reports_a_missing_extra() -> None:
    """A missing extra is reported in JSON, although the command did not begin."""
    code = (
        "import sys; sys.modules['pydantic'] = None; from boltseal.cli.root import run; run(['admin','fsck','--json'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    output = json.loads(ran.stdout)

    assert ran.returncode == 2
    assert output["schema"] == "boltseal.admin-fsck/1"
    assert "needs the server extra" in output["errors"][0]["message"]


def test_an_option_after_two_dashes_is_ignored() -> None:
    """`--json` after `--` belongs to another program."""
    assert program.call("build", "--nope", "--", "--json").out == ""


def test_an_error_is_printed_once(tmp_path: Path) -> None:
    """An error that a command printed as JSON is not printed again."""
    result = program.call("lock", "--project", tmp_path / "none", "--json")

    assert result.out.count("\n") == 1
    assert result.json["errors"]
