"""Which process that made a deploy lock is known to have ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boltseal.deploy.release_copy import is_stale, this_process
from tests.programs import program

OTHER_USER = """\
import os, sys
from pathlib import Path
from boltseal.deploy.release_copy import is_stale
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(is_stale(sys.argv[1], sys.argv[1], local=True, proc=Path(sys.argv[2])))
"""


def test_a_process_that_has_ended_is_stale() -> None:
    """A lock is stale if no process has its PID, or a later process has it; that of a running process is not."""
    here = this_process()
    *place, _, started = here.split("/")
    with subprocess.Popen([program("true")]) as process:
        process.wait()

    assert not is_stale(here, here, local=True)
    assert is_stale("/".join([*place, str(process.pid), started]), here, local=True)
    assert is_stale("/".join([*place, str(os.getpid()), "1"]), here, local=True)
    assert is_stale("/".join([*place, "9" * 30, started]), here, local=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount /proc and become another user")
def test_a_process_that_proc_hides_is_not_stale(tmp_path: Path) -> None:
    """Where /proc hides the processes of other users, another administrator's running deploy keeps its lock."""
    mounted = 'mount -t proc -o hidepid=2 proc "$1" && exec "$2" -c "$3" "$4" "$1"'
    words = [program("unshare"), "--mount", "--", "/bin/sh", "-ec", mounted, "sh"]
    done = subprocess.run(
        [*words, tmp_path, sys.executable, OTHER_USER, this_process()], capture_output=True, text=True
    )

    assert (done.stdout, done.stderr) == ("False\n", "")
