"""Development containers, Quadlet, bake files, models, and pipelines of CircleCI, Azure, Woodpecker, Drone and Bitbucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.project.references import quadlet
from boltseal.project.references.compose_places import MODEL
from tests.project.projects import found_in, names, pinned, put, shown, unpinned, written

FILES: dict[str, tuple[dict[str, str], list[tuple[str, str]], dict[str, list[str]]]] = {
    "devcontainer": (
        {
            ".devcontainer/devcontainer.json": '{\n  // comment: "image": "x:1"\n  "image": "mcr.example.com/dev:1", /* y */\n'
            '  "features": {"ghcr.io/devcontainers/features/node:1": {}},\n}\n',
            "b/.devcontainer.json": '{"build": {"dockerfile": "Image.dev", "args": {"V": "2"}}}\n',
            "b/Image.dev": "ARG V=1\nFROM node:${V}\n",
        },
        [
            ("image", "mcr.example.com/dev:1"),
            ("build.args FROM, stage 0", "node:2"),
            ("FROM, stage 0", "node:1"),
        ],
        {
            ".devcontainer/devcontainer.json": ['"image": "mcr.example.com/dev:1@DIGEST", /* y */'],
            "b/Image.dev": ["ARG V=1@DIGEST"],
        },
    ),
    "quadlet": (
        {
            "web.container": "[Unit]\nImage=none:1\n[Container]\n# Image=c:1\nImage=docker.io/library/nginx:1.25 \n",
            "app.container": "[Container]\nImage=app.build\n",
            "own.container": "[Container]\nImage=localhost/shop/app:1\n",
            "app.build": "[Build]\nImageTag=localhost/shop/app:1\nFile=Image.prod\n",
            "Image.prod": "FROM alpine:3.20\n",
            "cache.image": "[Image]\nImage=docker://quay.io/cache:2\nArch=amd64\n",
            "disk.image": "not a unit\nImage=x:1\n",
            "data.volume": "[Volume]\nDriver=image\nImage=data.image\n",
            "auto.container.d/10.conf": "[Container]\nImage=quay.io/auto:1\nAutoUpdate=registry\n",
            "each@.container": "[Container]\nImage=quay.io/each:%i\n",
            "local.container": "[Container]\nImage=oci-archive:/x.tar\n",
        },
        [
            ("FROM, stage 0", "alpine:3.20"),
            ("Container.Image", "quay.io/auto:1"),
            ("Image.Image", "quay.io/cache:2"),
            ("Container.Image", "? specifiers of systemd are not evaluated"),
            ("Container.Image", "localhost/shop/app:1"),
            ("Container.Image", "nginx:1.25"),
        ],
        {
            "Image.prod": ["FROM alpine:3.20@DIGEST"],
            "cache.image": ["Image=docker://quay.io/cache:2@DIGEST"],
            "web.container": ["Image=docker.io/library/nginx:1.25@DIGEST"],
        },
    ),
    "bake": (
        {
            "docker-bake.hcl": 'variable "V" { default = "3.20" }\n# base = "docker-image://c:1"\ntarget "app" {\n'
            '  contexts = {\n    base = "docker-image://alpine:3.19" // c\n    other = "docker-image://alpine:${V}"\n'
            '    src = "target:lib"\n  }\n  args = { X = "docker-image://no:1" }\n'
            "  dockerfile-inline = <<EOT\nFROM busybox:1.36\nEOT\n}\n",
            "docker-bake.json": '{"target": {"app": {"contexts": {"base": "docker-image://redis:7"}}}}\n',
        },
        [
            ("target.app.contexts.base", "alpine:3.19"),
            ("target.app.contexts.other", "alpine:3.20"),
            ("target.app.dockerfile-inline FROM, stage 0", "busybox:1.36"),
            ("target.app.contexts.base", "redis:7"),
        ],
        {
            "docker-bake.hcl": ['base = "docker-image://alpine:3.19@DIGEST" // c'],
            "docker-bake.json": ['{"target": {"app": {"contexts": {"base": "docker-image://redis:7@DIGEST"}}}}'],
        },
    ),
    "nomad": (
        {
            "job.nomad": 'variable "v" { default = "7" }\njob "a" {\n  group "g" {\n    task "t" {\n      driver = "docker"\n'
            '      config {\n        image = "redis:7.2" # c\n        args = ["image = x:1", "b"]\n      }\n'
            '      template {\n        data = <<EOF\nconfig { image = "no:1" }\nEOF\n      }\n    }\n'
            '    task "u" { config { image = "redis:${var.v}" } }\n    task "w" { config { image = var.none } }\n  }\n}\n',
            "other.hcl": 'config { name = "no:1" }\n',
            "pack.nomad.tpl": 'job [[ var "n" . ]] {\n  group "g" { task "t" { config { image = "a/b:1" } }\n'
            '  task "u" { config { image = "a/b:[[ var "v" . ]]" } } }\n}\n',
        },
        [
            ("job a group g task t config.image", "redis:7.2"),
            ("job a group g task u config.image", "redis:7"),
            (
                "job a group g task w config.image",
                "? its variables have no default, or it is an expression, which is not evaluated",
            ),
            ('job [[ var "n" . ]] group g task t config.image', "a/b:1"),
            (
                'job [[ var "n" . ]] group g task u config.image',
                "? its variables have no default, or it is an expression, which is not evaluated",
            ),
        ],
        {"job.nomad": ['image = "redis:7.2@DIGEST" # c']},
    ),
    "nomad-json": (
        {
            "example.json": '{"Job": {"ID": "example", "TaskGroups": [{"Name": "cache", "Tasks": [\n'
            '  {"Name": "redis", "Driver": "docker", "Config": {"image": "redis:7", "ports": ["db"]}},\n'
            '  {"Name": "any", "Driver": "docker", "Config": {"image": "x/app:${meta.version}"}}],\n'
            '  "Services": [{"Connect": {"SidecarTask": {"Config": {"image": "envoyproxy/envoy:v1.29"}}}}]}]}}\n',
            "bare.nomad.json": '{"TaskGroups": [{"Tasks": [{"Config": {"image": "nginx:1.25"}}]}]}\n',
            "other.nomad.json": '{"Config": {"image": "no"}}\n',
        },
        [
            ("TaskGroups[0].Tasks[0].Config.image", "nginx:1.25"),
            ("Job.TaskGroups[0].Tasks[0].Config.image", "redis:7"),
            (
                "Job.TaskGroups[0].Tasks[1].Config.image",
                "? a variable (${...}) is known only on the node that runs the task",
            ),
            ("Job.TaskGroups[0].Services[0].Connect.SidecarTask.Config.image", "envoyproxy/envoy:v1.29"),
        ],
        {
            "example.json": [
                '{"Name": "redis", "Driver": "docker", "Config": {"image": "redis:7@DIGEST", "ports": ["db"]}},',
                '"Services": [{"Connect": {"SidecarTask": {"Config": {"image": "envoyproxy/envoy:v1.29@DIGEST"}}}}]}]}}',
            ],
            "bare.nomad.json": ['{"TaskGroups": [{"Tasks": [{"Config": {"image": "nginx:1.25@DIGEST"}}]}]}'],
        },
    ),
    "circleci": (
        {
            ".circleci/config.yml": "version: 2.1\nexecutors: {go: {docker: [{image: 'cimg/go:1.23'}]}}\n"
            "jobs:\n  a: {docker: [{image: 'cimg/node:<< parameters.v >>'}, {image: postgres:16}]}\n"
            "  b: {machine: {image: 'ubuntu-2204:2024.01.1'}}\n",
            "src/executors/x.yml": "docker:\n  - image: cimg/base:2024.01\n",
        },
        [
            ("executors.go.docker[0].image", "cimg/go:1.23"),
            ("jobs.a.docker[0].image", "? a parameter (<< >>) or variable is evaluated only when the pipeline runs"),
            ("jobs.a.docker[1].image", "postgres:16"),
            ("docker[0].image", "cimg/base:2024.01"),
        ],
        {
            ".circleci/config.yml": [
                "executors: {go: {docker: [{image: 'cimg/go:1.23@DIGEST'}]}}",
                "a: {docker: [{image: 'cimg/node:<< parameters.v >>'}, {image: postgres:16@DIGEST}]}",
            ],
            "src/executors/x.yml": ["- image: cimg/base:2024.01@DIGEST"],
        },
    ),
    "azure-pipelines": (
        {
            "azure-pipelines.yml": "resources: {containers: [{container: dev, image: 'ubuntu:22.04'}]}\n"
            "pool: {vmImage: ubuntu-latest}\njobs:\n- {job: a, container: dev}\n- {job: b, container: 'node:22'}\n"
            "- {job: c, container: {image: 'go:1'}, services: {db: 'pg:16', x: dev}}\n- {job: d, container: 'x:$(v)'}\n",
            "ci/steps.yml": "parameters: [{name: x}]\njobs:\n- job: e\n  container: r.io/e:1\n",
        },
        [
            ("resources.containers[0].image", "ubuntu:22.04"),
            ("jobs[1].container", "node:22"),
            ("jobs[2].container.image", "go:1"),
            ("jobs[2].services.db", "pg:16"),
            ("jobs[3].container", "? an expression or a variable is evaluated only when the pipeline runs"),
            ("jobs[0].container", "r.io/e:1"),
        ],
        {
            "azure-pipelines.yml": [
                "resources: {containers: [{container: dev, image: 'ubuntu:22.04@DIGEST'}]}",
                "- {job: b, container: 'node:22@DIGEST'}",
                "- {job: c, container: {image: 'go:1@DIGEST'}, services: {db: 'pg:16@DIGEST', x: dev}}",
            ],
            "ci/steps.yml": ["container: r.io/e:1@DIGEST"],
        },
    ),
    "woodpecker": (
        {
            ".woodpecker/a.yml": "matrix: {V: [1, 2]}\nsteps:\n  test: {image: 'golang:${V}'}\n  b: {image: node:22}\n",
            ".drone.yml": "kind: pipeline\nservices: [{name: db, image: 'pg:16'}]\nsteps: [{name: x, image: 'go:1'}]\n",
        },
        [
            ("services[db].image", "pg:16"),
            ("steps[x].image", "go:1"),
            ("steps.test.image", "golang:1"),
            ("steps.test.image", "golang:2"),
            ("steps.b.image", "node:22"),
        ],
        {
            ".drone.yml": [
                "services: [{name: db, image: 'pg:16@DIGEST'}]",
                "steps: [{name: x, image: 'go:1@DIGEST'}]",
            ],
            ".woodpecker/a.yml": ["b: {image: node:22@DIGEST}"],
        },
    ),
    "bitbucket": (
        {
            "bitbucket-pipelines.yml": "image: node:22\ndefinitions: {services: {db: {image: 'pg:16'}}}\npipelines:\n"
            "  default:\n  - step: {image: {name: 'go:1', username: $U}, script: [{pipe: 'docker://a/b:1'}, {pipe: 'c/d:1'}]}\n"
        },
        [
            ("image", "node:22"),
            ("definitions.services.db.image", "pg:16"),
            ("pipelines.default[0].step.image.name", "go:1"),
            ("pipelines.default[0].step.script[0].pipe", "a/b:1"),
        ],
        {
            "bitbucket-pipelines.yml": [
                "image: node:22@DIGEST",
                "definitions: {services: {db: {image: 'pg:16@DIGEST'}}}",
                "- step: {image: {name: 'go:1@DIGEST', username: $U}, script: [{pipe: 'docker://a/b:1@DIGEST'}, {pipe: 'c/d:1'}]}",
            ]
        },
    ),
    "skaffold": (
        {
            "skaffold.yaml": "apiVersion: skaffold/v4beta6\nkind: Config\nbuild:\n  artifacts:\n"
            "  - {image: shop/app, buildpacks: {builder: 'b/b:1', runImage: 'b/r:1'}}\n  - {image: shop/x:1, ko: {fromImage: 'k:1'}}\n"
            "verify: [{name: v, container: {name: v, image: 'v/v:1'}}]\n"
        },
        [
            ("build.artifacts[0].buildpacks.builder", "b/b:1"),
            ("build.artifacts[0].buildpacks.runImage", "b/r:1"),
            ("build.artifacts[1].ko.fromImage", "k:1"),
            ("verify[0].container.image", "v/v:1"),
        ],
        {
            "skaffold.yaml": [
                "- {image: shop/app, buildpacks: {builder: 'b/b:1@DIGEST', runImage: 'b/r:1@DIGEST'}}",
                "- {image: shop/x:1, ko: {fromImage: 'k:1@DIGEST'}}",
                "verify: [{name: v, container: {name: v, image: 'v/v:1@DIGEST'}}]",
            ]
        },
    ),
    "models": (
        {
            "compose.yml": "services:\n  ai: {provider: {type: model, options: {model: 'ai/small:1'}}}\n"
            "models: {llm: {model: 'ai/large:2'}}\n"
        },
        [("services.ai.provider.options.model", "ai/small:1"), ("models.llm.model", "ai/large:2")],
        {},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_the_references_of_a_format(tmp_path: Path, name: str) -> None:
    """Every image of a format is a reference, with its position or the reason why it is not resolved; no decoy is."""
    files, expected, _ = FILES[name]
    found = found_in(written(tmp_path, files))

    assert names(found) == expected
    assert (found.problems, found.unknown) == ((), ())


@pytest.mark.parametrize("name", FILES)
def test_digests_are_written_into_a_format_and_removed_again(tmp_path: Path, name: str) -> None:
    """Only the lines with editable images change, and removing the digests gives back the bytes."""
    files, _, expected = FILES[name]
    root = written(tmp_path, files)
    edited = pinned(root)
    put(root, edited)

    assert shown(edited) == expected
    put(root, unpinned(root))
    assert {file: (root / file).read_text() for file in files} == files


def test_what_is_locked_and_not_edited(tmp_path: Path) -> None:
    """A unit that follows its tag, one that is built here, and a model have a reason why no digest is written."""
    files = FILES["quadlet"][0] | FILES["models"][0]
    reasons = {
        image_ref.resolved.familiar(): image_ref.override_only
        for image_ref in found_in(written(tmp_path, files)).image_refs
        if image_ref.resolved and image_ref.edit_range is None
    }

    assert reasons == {
        "quay.io/auto:1": quadlet.AUTO_UPDATE,
        "localhost/shop/app:1": quadlet.BUILT,
        "ai/small:1": MODEL,
        "ai/large:2": MODEL,
    }


def test_a_binary_file_with_a_common_suffix_is_skipped(tmp_path: Path) -> None:
    """A disk image called `x.image` is no unit, and no problem."""
    assert found_in(written(tmp_path, {"x.image": b"\0\xff", "y.hcl": b"\0"})).problems == ()


def test_a_tekton_parameter_with_a_default_is_that_image(tmp_path: Path) -> None:
    """The default of a parameter is the image of each step that it names, and is edited if it is nothing else too."""
    task = """\
apiVersion: tekton.dev/v1
kind: Task
metadata: {name: build}
spec:
  params:
  - {name: BUILDER, default: "x/builder:1"}
  - {name: TOOL, default: "x/tool:2"}
  - {name: GIVEN}
  steps:
  - image: $(params.BUILDER)
  - image: $(params.BUILDER)
  - image: $(params.TOOL)
    args: [$(params.TOOL)]
  - image: $(params.GIVEN)
"""
    root = written(tmp_path, {"task.yaml": task})
    found = found_in(root)

    assert [(each.written, str(each.resolved), each.edit_range is not None) for each in found.image_refs] == [
        ("x/builder:1", "docker.io/x/builder:1", True),
        ("x/tool:2", "docker.io/x/tool:2", False),
        ("$(params.GIVEN)", "None", False),
    ]
    assert not found.unknown


HCL_TARGETS = """\
target "base" {
  context = "app"
  args = { FROM_IMAGE = "x/base:1" }
}
target "last" {
  inherits = ["base"]
  args = { FROM_IMAGE = "x/last:2" }
}
target "app" {
  inherits = ["last", "app"]
}
"""
JSON_TARGETS = """\
{"target": {
  "base": {"context": "app", "args": {"FROM_IMAGE": "x/base:1"}},
  "last": {"inherits": ["base"], "args": {"FROM_IMAGE": "x/last:2"}},
  "app": {"inherits": ["last", "app"]}
}}
"""


@pytest.mark.parametrize(("name", "text"), [("docker-bake.hcl", HCL_TARGETS), ("docker-bake.json", JSON_TARGETS)])
def test_a_bake_target_builds_with_what_it_inherits(tmp_path: Path, name: str, text: str) -> None:
    """Arguments and the context of inherited targets count, a target's own first; a cycle ends."""
    root = written(tmp_path, {name: text, "app/Dockerfile": "ARG FROM_IMAGE\nFROM $FROM_IMAGE\n"})
    selected = {each.where.partition(".args")[0]: each.written for each in found_in(root).image_refs}

    assert selected == {"target.base": "x/base:1", "target.last": "x/last:2", "target.app": "x/last:2"}


def test_many_inherited_targets_are_read_in_linear_time(tmp_path: Path) -> None:
    """A file in which each target inherits all earlier ones several times is read at once."""
    targets = "".join(
        f'target "t{n}" {{\n inherits = [{", ".join(f"""{chr(34)}t{m}{chr(34)}""" for m in range(n)) or chr(34) * 2}]\n}}\n'
        for n in range(200)
    )
    root = written(tmp_path, {"docker-bake.hcl": targets})

    assert not found_in(root).problems
