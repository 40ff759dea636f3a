"""The commands in the pages: which test runs those of a page, and why some are run by none.

A block without a language has commands, one a line; other text has the language `text`. `PLAYS` is played by
tests/real/engines/test_page_commands.py; tests/docs/test_page_commands.py finds commands that are missing here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Play:
    """How the commands of a page are run. `before`: what is run before a command, "" before the first one.

    `replace`: text of the page and what stands for it here. `codes`: exit codes other than 0 that a command may end with.
    """

    before: Mapping[str, str] = field(default_factory=dict)
    replace: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def pushed(image: str, name: str) -> str:
    return f"docker tag {image} localhost:5000/{name} && docker push -q localhost:5000/{name}"


NEWER: Final = (
    f"{pushed('made:2', 'shop/app:1.5.1')} && sed -i 's/1\\.4\\.2/1.5.1/' compose.yaml && "
    "(boltseal release hold --end || true) && boltseal deploy --update --anyway"
)
SETTINGS: Final = "${XDG_CONFIG_HOME:-$HOME/.config}/boltseal"
DEPLOYED: Final = "boltseal lock && boltseal deploy"
SCRUB: Final = {"boltseal scrub": "boltseal scrub --no-lock --root /var/lib/docker"}
BUILT: Final = (
    f"{pushed('made:1', 'base/node:latest')} && mkdir -p api && echo ok > api/api.js && "
    "printf 'FROM localhost:5000/base/node:latest\\nCOPY api.js /api.js\\n' > api/Dockerfile"
)
KUBERNETES: Final = (
    "mkdir -p deploy/k8s && printf 'apiVersion: v1\\nkind: Pod\\nmetadata: {name: app}\\nspec:\\n  containers:\\n"
    "    - {name: app, image: localhost:5000/shop/app:1.4.2}\\n' | tee deploy/app.yaml > deploy/k8s/app.yaml"
)
CHART: Final = (
    "mkdir -p chart && printf 'apiVersion: v2\\nname: app\\nversion: 1.0.0\\n' > chart/Chart.yaml && "
    "printf 'image: {repository: localhost:5000/shop/app, tag: 1.4.2}\\n' > chart/values.yaml"
)

PLAYS: Final[Mapping[str, Play]] = {
    "README.md": Play(
        before={
            "": "docker tag made:1 shop-app",
            "boltseal rollback": NEWER,
            "boltseal outdated localhost:5000/shop/app:1.4.2": "boltseal build --help",
        },
        replace=SCRUB,
        codes={"boltseal outdated localhost:5000/shop/app:1.4.2": (0, 3)},
    ),
    "docs/concepts/trust.md": Play(
        before={"": "boltseal ledger trust localhost:5000 --forget"},
        replace={"registry.example.com": "localhost:5000"},
    ),
    "docs/guides/base-updates.md": Play(
        before={
            "": BUILT,
            "boltseal outdated --registry": f"mkdir -p {SETTINGS} && "
            f"printf '[[on_outdated]]\\ncommand = [\"true\"]\\n' > {SETTINGS}/boltseal.toml",
        },
        replace={"build . ": "build api ", "outdated --log": f"outdated --log && rm {SETTINGS}/boltseal.toml"},
        codes={"boltseal outdated --registry": (0, 1, 3)},
    ),
    "docs/guides/deploy-and-roll-back.md": Play(
        before={"boltseal release ls": NEWER, "boltseal lock deploy/": KUBERNETES},
        replace={"kubectl apply -f -": "grep -q sha256", "17 4 * * *  cd /srv/shop && ": ""},
    ),
    "docs/guides/digests-in-compose.md": Play(
        before={
            "": "printf 'FROM localhost:5000/shop/app:1.4.2\\n' > Dockerfile",
            "boltseal lock --update node:16.13": "true",
            "boltseal pin --stdout deploy/k8s": f"{KUBERNETES} && boltseal lock",
            "boltseal lock --emit kustomize": "mkdir -p digests",
            "boltseal lock --emit helm": f"{CHART} && boltseal lock",
            "boltseal lock --emit buildkit": "rm -r chart deploy compose.yaml && boltseal lock",
            "docker compose": "git checkout -q compose.yaml && boltseal lock",
            "boltseal tag new --scheme content": "docker tag made:1 localhost:5000/shop/app:dev",
        },
        replace={
            "node:16.13": "localhost:5000/shop/app:1.4.2",
            "kubectl apply -f -": "grep -q sha256",
            "digests.yaml up": "digests.yaml config -q",
        },
        codes={"boltseal lock --emit kustomize": (0, 1, 3), "boltseal lock --emit compose-override": (0, 1, 3)},
    ),
    "docs/guides/keep-images-on-pull.md": Play(
        before={
            "": f"{pushed('made:1', 'shop/app:latest')} && boltseal pull localhost:5000/shop/app:latest && "
            f"{pushed('made:2', 'shop/app:latest')} && docker tag made:1 localhost:5000/shop/app:latest"
        }
    ),
    "docs/guides/naming.md": Play(),
    "docs/guides/overwritten-tags.md": Play(
        before={"": f"{pushed('made:1', 'shop/app:latest')}"},
        replace={
            "sha256:160371b058b5e5c9bd3e7d8bcb3fe5a45ba5a9ab5a3bf5bd0e0f4a3a5d2a9d7e": (
                "$(boltseal digest localhost:5000/shop/app:latest)"
            )
        },
    ),
    "docs/guides/recheck-local-images.md": Play(
        before={"": "docker tag made:1 localhost:5000/shop/app:1.4.2"},
        replace={"boltseal scrub --root /mnt/disk": "boltseal scrub --no-lock --root /var/lib/docker"} | SCRUB,
    ),
    "docs/guides/tag-history.md": Play(
        before={
            "": "docker tag made:1 localhost:5000/shop/app:1.4.2 && docker tag made:1 localhost:5000/shop/app:latest && "
            "boltseal ledger trust localhost:5000 --forget",
            "boltseal history": pushed("made:2", "shop/app:latest"),
            "unzip": f"cd {SOURCE} && {sys.executable} -m hatchling build --target wheel --directory $OLDPWD",
        },
        replace={
            "--to 2026-11-24T18:35": "--to $(boltseal digest localhost:5000/shop/app:1.4.2 | cut -d@ -f2)",
            "https://registry.example.com": "http://localhost:5000",
        },
    ),
    "docs/guides/watch-other-registries.md": Play(
        before={"": "boltseal lock"},
        replace={
            "node:16.13.1 ghcr.io/acme/shop:2.4.0": "localhost:5001/team/tool:2.3.1",
            "17 */6 * * *  ": "",
            '|| mail -s "watched tags" you@example.com': "",
            "12:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b": (
                "$(boltseal watch --json localhost:5001/team/tool:2.3.1 | "
                'python3 -c \'import json, sys; print(json.load(sys.stdin)["results"][-1]["head"])\')'
            ),
        },
    ),
    "docs/guides/what-runs.md": Play(before={"": DEPLOYED}),
    "docs/operations/garbage-collection.md": Play(),
}
"""The pages whose commands are run in a project with an engine and two registries."""

RUN_ELSEWHERE: Final[Mapping[str, str]] = {
    "docs/getting-started/first-steps.md": "tests/real/engines/test_questions.py",
    "docs/guides/docker-content-trust.md": "tests/real/test_signature_guides.py",
    "docs/guides/from-cosign.md": "tests/real/test_signature_guides.py",
    "docs/guides/from-docker-registry.md": "tests/real/test_operators_pages.py",
    "docs/guides/from-notation.md": "tests/real/test_signature_guides.py",
    "docs/guides/kubernetes.md": "tests/kube/test_guide.py",
    "docs/guides/receipts-beside-images.md": "tests/real/test_signature_guides.py",
    "docs/operations/backup.md": "tests/real/test_operators_pages.py",
    "docs/operations/tls.md": "tests/real/test_operators_pages.py",
    "docs/operations/witness.md": "tests/attacks/test_witness_service.py",
    "docs/releasing.md": "tests/distribution/test_dist.py",
    "docs/guides/require-signatures.md": "tests/real/test_required_signatures.py",
}
"""The pages whose commands another test runs."""

_INSTALLS = (
    "installs from an address that is the reader's; tests/distribution/test_dist.py installs the same with uv and pipx"
)
_CLUSTER = "needs a cluster; tests/real/test_kubernetes_base.py builds and pins the same files with kubectl kustomize"
_HOST = "needs another host; tests/real/engines/test_ps.py asks one by ssh"
_MAKE = "needs minutes; .ci/run runs the targets, and tests/docs/test_pages.py checks that they exist"
_BACKUPS = "needs PostgreSQL and an S3 server; tests/server/commands/test_backups.py makes the same calls"
_HUB = "asks Docker Hub, which tests do not; tests/fakes/hub.py stands for it in tests/real/test_mirror.py"

_SECRETS = ("mkdir -m 700", "openssl rand", "echo ", "sed 's/", "cp tls", "chmod 600", "chown 10001")

NOT_RUN: Final[Mapping[str, Mapping[str, str]]] = {
    "CONTRIBUTING.md": {"make ": _MAKE},
    "README.md": {"git clone": _INSTALLS, "make serve": _MAKE, "uv tool": _INSTALLS, "pipx": _INSTALLS},
    "docs/getting-started/install.md": {
        "git clone": _INSTALLS,
        "make serve": _MAKE,
        "uv tool": _INSTALLS,
        "pipx": _INSTALLS,
        "pip install": _INSTALLS,
        "boltseal completion": "writes into the user's shell settings; tests/cli/test_command_tree.py completes words",
    },
    "docs/guides/base-fix-to-host.md": {
        "boltseal ": "needs two hosts and an hour; tests/real/engines/test_base_fix.py runs the steps on one",
    },
    "docs/guides/digests-in-compose.md": {
        "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY": "needs buildx; tests/project/test_buildkit.py checks the policy",
        "docker build": "downloads a base image; tests/real/engines/test_building.py builds",
        "boltseal build --print-labels": "downloads a base image; tests/real/engines/test_building.py builds",
    },
    "docs/guides/docker-hub-limits.md": {"boltseal ": _HUB},
    "docs/guides/pipelines.md": {
        "git clone": "clones from an address that is the reader's; tests/real/test_pipelines.py runs the steps",
        "scripts/install": "tests/real/test_pipelines.py runs the step of the composite action",
        ".venv/bin/boltseal verify": "tests/real/test_pipelines.py runs the step of the composite action",
    },
    "docs/guides/push-from-ci.md": {
        "curl -sS": "needs an ID token of a CI; tests/server/auth/test_pipeline_logins.py asks for it and reads the message",
        'echo "$ID_TOKEN"': "needs an ID token of a CI, and only decodes it",
    },
    "docs/guides/recheck-local-images.md": {
        "cp packaging/systemd": "needs systemd; tests/real/test_systemd_timers.py verifies the units",
        "systemctl": "needs systemd; tests/real/test_systemd_timers.py verifies the units",
        "boltseal scrub --host": "needs other hosts; tests/real/test_scrub_hosts.py checks them by sshd",
        "restrict,": "a line of authorized_keys",
        "boltseal scrub --baseline": "needs the printed key; tests/cli/test_scrub_baseline.py checks against a baseline",
    },
    "docs/guides/gitops.md": {
        f"boltseal {command} --git-branch production": "tests/cli/test_git_branch.py runs it in a repository"
        for command in ("deploy", "rollback", "release hold")
    },
    "docs/guides/quadlet.md": dict.fromkeys(
        ("ln -s", "cd /srv/shop", "boltseal lock", "boltseal deploy --quadlet", "boltseal rollback --quadlet"),
        "needs systemd; tests/real/engines/test_quadlet.py runs these commands on a host with systemd and Podman",
    ),
    "docs/guides/from-notation.md": {
        "boltseal publish": "needs notation, which is not in Debian; tests/server/seal/test_required_certificates.py judges its signatures",
    },
    "docs/guides/several-hosts.md": dict.fromkeys(
        ("boltseal deploy", "boltseal rollback", "boltseal release ls", "boltseal ps"),
        "needs several hosts; tests/real/engines/test_deploy_hosts.py runs such commands on two engines",
    ),
    "docs/guides/skaffold.md": {
        "skaffold": "Skaffold is not in Debian",
        "boltseal verify k8s": "needs the file that Skaffold writes; tests/project/test_kubernetes.py verifies such a file",
        "export TAG": "for Skaffold; tests/cli/test_tag_new.py chooses such tags",
    },
    "docs/guides/watch-other-registries.md": {
        "boltseal watch --lock /srv/shop/boltseal.lock --every 6h": "does not end"
    },
    "docs/guides/what-runs.md": {
        "boltseal ps --host": _HOST,
        "boltseal ps --kube": _CLUSTER,
        "boltseal verify --running --host": _HOST,
        "boltseal verify --running --kube": "needs a cluster; tests/kube/test_guide.py runs it, for docs/guides/kubernetes.md",
    },
    "docs/guides/move-to-postgresql-s3.md": {
        f"boltseal admin migrate --from ./data --config ./new.toml{option}": (
            "needs PostgreSQL and an S3 server; tests/server/commands/test_move_data.py makes the same calls"
        )
        for option in (" --dry-run", "", " --undo")
    },
    "docs/operations/postgresql-s3.md": {
        "make serve-postgres": "tests/real/test_serve_postgres.py runs what it runs",
        "env $(cat data-postgres/s3.env)": "needs these servers; tests/real/test_serve_postgres.py runs it",
        "boltseal admin backup /mnt/backup/boltseal --config ./boltseal.toml": _BACKUPS,
        "boltseal admin backup /mnt/backup/boltseal --config ./boltseal.toml --with-objects": _BACKUPS,
        "boltseal admin restore /mnt/backup/boltseal --config ./new.toml": _BACKUPS,
    },
    "docs/operations/replicas.md": {
        "make serve-replicas": "tests/real/test_serve_replicas.py runs what it runs",
        "docker push": "needs these servers; tests/real/test_serve_replicas.py pushes by HTTP",
        "docker tag": "needs these servers; tests/real/test_serve_replicas.py pushes by HTTP",
        "docker compose": "downloads images; tests/real/test_replica_packaging.py runs the programs of the containers",
        "while sleep": "does not end; tests/real/test_serve_replicas.py pulls in a loop",
        "kill -9": "needs these servers; tests/real/test_serve_replicas.py kills them",
        "kubectl": "needs a cluster; tests/real/test_kubernetes_replicas.py builds the overlay",
        **dict.fromkeys(_SECRETS, "tests/real/test_replica_packaging.py runs this block"),
    },
    "docs/operations/kubernetes.md": {"kubectl": _CLUSTER, "boltseal lock": _CLUSTER, "boltseal pin": _CLUSTER},
    "docs/reference/client-configuration.md": {
        "skopeo login": "asks for a password; tests/real/test_client_configuration.py logs in",
        "boltseal digest": "needs that login; tests/real/test_client_configuration.py resolves with it",
    },
    "docs/reference/commands.md": {
        "boltseal ": "the generated examples; tests/cli/test_command_tree.py parses each of them"
    },
}
"""Commands by how they begin, with the reason why no test runs them."""


def reason_not_run(page: str, line: str) -> str | None:
    """Return why a line of a page is not run; None if it is."""
    return next((why for begin, why in NOT_RUN.get(page, {}).items() if line.startswith(begin)), None)
