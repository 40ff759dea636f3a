"""The table of commands: names, sections of `boltseal --help`, summaries and examples. Imports nothing heavy.

A name with a blank is a command of a group: `tag seal` is the command `seal` of the group `tag`. The command `tag seal` is
the function `tag_seal` of `cli/tag_seal.py`, which is imported when the command is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from boltseal.cli.command_rows import Command, Group, Section
from boltseal.cli.ledger_command_table import LEDGER

_IMAGE: Final = "localhost:5000/shop/app:1.4.2"
_SERVER: Final = "server"


SECTIONS: Final = (
    Section(
        "Registry server",
        (
            Command(
                "serve",
                "Run the registry server.",
                "boltseal serve --data ./data --listen 127.0.0.1:5000",
                keywords="start run daemon registry server tls certificate https port",
                extra=_SERVER,
            ),
            Command(
                "health",
                "Check whether a server responds or is ready.",
                "boltseal health --ready",
                keywords="status alive up ping liveness readiness",
            ),
            Group(
                "admin",
                "Manage a registry's data folder and users",
                "Manage a registry's data folder and users, also while the server runs.",
                (
                    Command(
                        "admin fsck",
                        "Check everything in the data folder; changes nothing.",
                        "boltseal admin fsck --data ./data",
                        keywords="integrity corrupt damage consistency data check",
                        extra=_SERVER,
                    ),
                    Command(
                        "admin gc",
                        "Delete unreferenced blobs older than a day.",
                        "boltseal admin gc --data ./data --dry-run",
                        keywords="garbage collect collection prune cleanup free full disk space unreferenced",
                    ),
                    Command(
                        "admin expire",
                        "Delete sealed tags whose retention time is over.",
                        "boltseal admin expire --data ./data --dry-run",
                        keywords="retention old prune cleanup disk space",
                    ),
                    Command(
                        "admin backup",
                        "Back up the data folder while the server runs.",
                        "boltseal admin backup /mnt/backup/boltseal --data ./data",
                        keywords="copy save export dump",
                        extra=_SERVER,
                    ),
                    Command(
                        "admin restore",
                        "Create a data folder from a backup, and check it.",
                        "boltseal admin restore /mnt/backup/boltseal --data ./new",
                        keywords="backup import recover",
                        extra=_SERVER,
                    ),
                    Command(
                        "admin migrate",
                        "Move a registry into PostgreSQL and S3.",
                        "boltseal admin migrate --from ./data --config ./new.toml --dry-run",
                        keywords="migration move postgresql s3 database object store convert scale",
                        extra=_SERVER,
                    ),
                    Command(
                        "admin user",
                        "Add, remove and list users; show grants.",
                        "boltseal admin user add ci",
                        keywords="login password account add remove list credentials htpasswd",
                        group=True,
                    ),
                    Command(
                        "admin token",
                        "Create, list and revoke API tokens.",
                        "boltseal admin token create --owner ci --repositories 'shop/**'",
                        keywords="login bearer jwt key access token secret robot service account rotate revoke",
                        group=True,
                    ),
                    Command(
                        "admin host",
                        "List, show and forget the hosts that report.",
                        "boltseal admin host ls --server registry.example.com",
                        keywords="report ps scrub deploy running machine fleet forget stopped where runs",
                        group=True,
                    ),
                    Command(
                        "admin session",
                        "List and revoke sessions of pipelines.",
                        "boltseal admin session ls --data ./data",
                        keywords="pipeline ci oidc id token login refresh revoke logout github gitlab",
                        group=True,
                    ),
                    Command(
                        "admin audit",
                        "List who changed users and API tokens.",
                        "boltseal admin audit --server registry.example.com",
                        keywords="audit log who changed security records",
                    ),
                    Command(
                        "admin ledger",
                        "Show the state of a registry's logs.",
                        "boltseal admin ledger --server registry.example.com",
                        keywords="ledger status size signed witnessed doubt",
                    ),
                    Command(
                        "admin held",
                        "List upstreams' tags that are held back.",
                        "boltseal admin held --server registry.example.com",
                        keywords="upstream moved tag alarm held accept mirror",
                    ),
                    Command(
                        "admin rebuilds",
                        "List the requested rebuilds.",
                        "boltseal admin rebuilds --server registry.example.com",
                        keywords="on_outdated rebuild request webhook base outdated",
                    ),
                    Command(
                        "admin config",
                        "Show every setting and its source.",
                        "boltseal admin config --config /etc/boltseal/boltseal.toml",
                        keywords="settings environment variables configuration",
                        extra=_SERVER,
                    ),
                    Command(
                        "admin rules",
                        "Show, test and plan rules: which decides, what others would do.",
                        "boltseal admin rules --config examples/boltseal.toml",
                        keywords="immutable mutable policy floating which rule",
                        group=True,
                    ),
                ),
            ),
        ),
    ),
    Section(
        "Images and tags",
        (
            Command(
                "digest",
                "Print the digest that a tag resolves to.",
                f"boltseal digest {_IMAGE}",
                keywords="resolve sha256 hash latest",
            ),
            Command(
                "tags",
                "List the tags of a repository, now or at a time.",
                "boltseal tags localhost:5000/shop/app",
                keywords="list images ls repository",
                aliases=("ls",),
            ),
            Command(
                "inspect",
                "Show platforms, labels, layers, base and signatures.",
                f"boltseal inspect {_IMAGE}",
                keywords="show info manifest labels layers platforms size signatures cosign signed",
            ),
            Command(
                "history",
                "Show a tag's past digests, with times, users and reasons.",
                "boltseal history localhost:5000/shop/app:latest",
                keywords="log moved overwritten previous who pushed when audit",
            ),
            Command(
                "check",
                "Check whether a tag is taken, or may be published.",
                f"boltseal check {_IMAGE}",
                keywords="taken free exists available overwrite",
            ),
            Command(
                "compare",
                "Compare two images, and show what differs.",
                f"boltseal compare {_IMAGE} registry.example.com/shop/app:1.4.2",
                keywords="diff difference same",
            ),
            Command(
                "copy",
                "Copy images between registries, files and daemons.",
                f"boltseal copy localhost:5000/shop/app:build-123 {_IMAGE}",
                keywords="push cp mirror promote transfer save load move",
                aliases=("cp",),
            ),
            Group(
                "tag",
                "Manage a registry's tags",
                "Manage a registry's tags, and choose new ones.",
                (
                    Command(
                        "tag seal",
                        "Seal a mutable tag at its current digest.",
                        'boltseal tag seal localhost:5000/shop/app:latest --reason "shown to the auditor"',
                        keywords="immutable lock freeze protect",
                        extra=_SERVER,
                    ),
                    Command(
                        "tag unseal",
                        "Allow a sealed tag to be deleted.",
                        f'boltseal tag unseal {_IMAGE} --reason "built for another customer"',
                        keywords="delete remove rm rmi unprotect",
                        extra=_SERVER,
                    ),
                    Command(
                        "tag restore",
                        "Move a mutable tag back to an earlier digest.",
                        'boltseal tag restore localhost:5000/shop/app:latest --to 2026-11-23 --reason "it crashes"',
                        keywords="undo revert roll back previous earlier rollback",
                        extra=_SERVER,
                    ),
                    Command(
                        "tag accept",
                        "Serve an upstream tag's new digest that is held back.",
                        'boltseal tag accept docker.io/library/node:16.13 --reason "read the release notes"',
                        keywords="hold held upstream moved approve",
                        extra=_SERVER,
                    ),
                    Command(
                        "tag purge",
                        "Delete an image and its blobs, sealed or not.",
                        f'boltseal tag purge {_IMAGE} --reason "a password was in its second layer"',
                        keywords="secret leak leaked",
                        extra=_SERVER,
                    ),
                    Command(
                        "tag new",
                        "Choose the next tag of a repository.",
                        "boltseal tag new --scheme describe --check localhost:5000/shop/app",
                        keywords="version next name unique semver build number git describe",
                    ),
                ),
            ),
        ),
    ),
    Section(
        "Projects",
        (
            Command(
                "lock",
                "Write the digests that a project's tags resolve to.",
                "boltseal lock --update node:16.13",
                keywords="lockfile pin freeze resolve",
            ),
            Command(
                "pin",
                "Write digests into project files.",
                "boltseal pin deploy/compose.yaml --write",
                keywords="digest sha256 unpin compose kubernetes dockerfile",
            ),
            Command(
                "verify",
                "Compare a project with its lock file.",
                "boltseal verify --github",
                keywords="check compare lock drift ci pipeline hook pre-commit github gitlab",
            ),
            Command(
                "outdated",
                "List images whose base image has changed.",
                f"boltseal outdated {_IMAGE}",
                keywords="base image old rebuild update upgrade stale",
            ),
            Command(
                "update",
                "Deploy newer images of mutable tags; propose new versions.",
                "boltseal update --cooldown 3d",
                keywords="upgrade bump newer version dependencies",
            ),
            Command(
                "build",
                "Build and push with locked base images and labels.",
                "boltseal build . --repository localhost:5000/shop/app",
                keywords="docker buildx buildah labels provenance reproducible",
            ),
            Command(
                "publish",
                "Push an image, have it signed, then give it its tag.",
                f"boltseal publish oci:./image {_IMAGE} --sign 'cosign sign --key release.key {{image}}'",
                keywords="push sign signed signature cosign attest release tag",
            ),
            Command(
                "rebase",
                "Replace the base image of an image without a build.",
                f"boltseal rebase {_IMAGE} --onto node:16.13 --scheme revision",
                keywords="base image crane swap replace layers without sources",
            ),
        ),
    ),
    Section(
        "Hosts",
        (
            Command(
                "ps",
                "Show which image each running container uses.",
                "boltseal ps --host ssh://deploy@web1",
                keywords="running containers which image runs version live",
            ),
            Command(
                "pull",
                "Pull images; keep the previous ones.",
                "boltseal pull localhost:5000/shop/app:latest --keep 3 --keep-for 30d",
                keywords="download fetch get",
            ),
            Group(
                "keep",
                "List or restore the images that `pull` has kept",
                "List or restore the images that `boltseal pull` has kept on an engine.",
                (
                    Command(
                        "keep ls",
                        "List the images that are kept on an engine.",
                        "boltseal keep ls localhost:5000/shop/app:latest",
                        keywords="list kept images previous old",
                    ),
                    Command(
                        "keep restore",
                        "Restore an image that `pull` has kept, offline.",
                        "boltseal keep restore localhost:5000/shop/app:latest --to 1",
                        keywords="undo revert roll back rollback previous local",
                    ),
                ),
            ),
            Command(
                "scrub",
                "Verify the images on this host's disk; detect tampering.",
                f"boltseal scrub {_IMAGE}",
                keywords="tamper tampered modified integrity corrupt disk verify local overlay",
            ),
        ),
    ),
    Section(
        "Deployments",
        (
            Command(
                "deploy",
                "Deploy a Compose project; roll back if health checks fail.",
                "boltseal deploy -f compose.yaml",
                keywords="compose up start release rollout",
            ),
            Command(
                "rollback",
                "Deploy an older release again.",
                "boltseal rollback 41 --project-name shop",
                keywords="undo revert roll back previous release",
            ),
            Group(
                "release",
                "List releases, show one, or compare two",
                "List the releases of an engine, show one, compare two, and end what a rollback holds.",
                (
                    Command(
                        "release ls",
                        "List releases with time, user and result.",
                        "boltseal release ls --project-name shop",
                        keywords="list releases deployments history log",
                    ),
                    Command(
                        "release show",
                        "Show one release with the digests of its images.",
                        "boltseal release show 41 --project-name shop",
                        keywords="inspect details images digests",
                    ),
                    Command(
                        "release diff",
                        "Show what changed between two releases.",
                        "boltseal release diff 41 42 --project-name shop",
                        keywords="compare changed difference",
                    ),
                    Command(
                        "release hold",
                        "Show or end what a rollback holds.",
                        "boltseal release hold --end --project-name shop",
                        keywords="rollback held update freeze end",
                    ),
                    Command(
                        "release unlock",
                        "Remove the lock of a deploy that was killed.",
                        "boltseal release unlock --project-name shop",
                        keywords="stale lock deploying break",
                    ),
                ),
            ),
        ),
    ),
    Section(
        "Upstreams",
        (
            Command(
                "watch",
                "Record what tags resolve to; report moved ones.",
                "boltseal watch node:16.13 --lock boltseal.lock",
                keywords="monitor upstream moved tags alarm cron observe",
            ),
            Command(
                "ratelimit",
                "Show what is left of a registry's pull limit.",
                "boltseal ratelimit docker.io",
                keywords="quota pull limit docker hub toomanyrequests 429",
            ),
        ),
    ),
    LEDGER,
    Section(
        "Kubernetes",
        (
            Command(
                "admission",
                "Run the admission webhook of a cluster.",
                "boltseal admission --trusted trusted --tls-cert tls.crt --tls-key tls.key",
                keywords="kubernetes k8s webhook admit mutate validate pods deny policy",
                extra=_SERVER,
            ),
        ),
    ),
    Section(
        "Other",
        (
            Command(
                "help",
                "Show the help of a command, or find commands by a keyword.",
                "boltseal help rollback",
                keywords="find search how usage",
            ),
            Command(
                "explain",
                "Explain a reference: registry, repository, tag and digest.",
                "boltseal explain ouruser/sinatra:v2",
                keywords="reference name syntax alias docker hub registry parse",
            ),
            Command(
                "version",
                "Show the version of boltseal and of its runtime.",
                "boltseal version --json",
                keywords="release about",
            ),
            Command(
                "completion",
                "Print or install the completion script of a shell.",
                "boltseal completion bash --install",
                keywords="shell bash zsh fish tab autocomplete",
            ),
        ),
    ),
)
"""In the order of `boltseal --help`."""


def commands() -> Iterator[Command]:
    """Yield every command of the table, those of groups included."""
    for section in SECTIONS:
        for entry in section.entries:
            yield from entry.commands if isinstance(entry, Group) else (entry,)
