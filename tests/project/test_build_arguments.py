"""Build arguments in one file that select the base image of a Dockerfile in another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.project.projects import found_in, names, written

WITHOUT_DEFAULT = "ARG BASE_IMAGE\nARG VERSION\nFROM ${BASE_IMAGE}\nFROM alpine:${VERSION} AS tools\n"
EXPECTED = ["alpine:3.20", "node:22"]
BAKE_HCL = """variable "NODE" { default = "node:22" }
target "app" {
  context = "app"
  args = {
    BASE_IMAGE = NODE
    VERSION = "3.20"
  }
}
"""
BAKE_JSON = {"target": {"app": {"context": "app", "args": {"BASE_IMAGE": "node:22", "VERSION": "3.20"}}}}
DEVCONTAINER = {"build": {"dockerfile": "../app/Dockerfile", "args": BAKE_JSON["target"]["app"]["args"]}}
BUILDERS = {
    "compose": {
        "compose.yml": "services: {a: {build: {context: app, args: {BASE_IMAGE: node:22, VERSION: '3.20'}}}}\n"
    },
    "compose .env": {
        "compose.yml": "services: {a: {build: {context: app, args: [BASE_IMAGE, 'VERSION=${TAG:?}']}}}\n",
        ".env": "BASE_IMAGE=node:22\nTAG=3.20\n",
    },
    "bake": {"docker-bake.hcl": BAKE_HCL},
    "bake in JSON": {"docker-bake.json": json.dumps(BAKE_JSON)},
    "devcontainer": {".devcontainer/devcontainer.json": json.dumps(DEVCONTAINER)},
}


@pytest.mark.parametrize("builder", BUILDERS)
def test_an_argument_without_a_default_is_set_by_the_build(tmp_path: Path, builder: str) -> None:
    """A base image that only a build argument names is resolved by the file that sets it, and is not reported as unset."""
    found = found_in(written(tmp_path, {"app/Dockerfile": WITHOUT_DEFAULT, **BUILDERS[builder]}))

    assert sorted(name for _, name in names(found)) == EXPECTED
    assert {image_ref.path for image_ref in found.image_refs} == BUILDERS[builder].keys() - {".env"}
    assert {image_ref.edit_range for image_ref in found.image_refs} == {None}
    assert (found.problems, found.unknown) == ((), ())


def test_an_argument_that_no_build_sets_is_reported(tmp_path: Path) -> None:
    """An argument without a default that a build does not set stays unresolved, in the Dockerfile."""
    files = {
        "app/Dockerfile": WITHOUT_DEFAULT,
        "compose.yml": "services: {a: {build: {context: app, args: {VERSION: '3.20', BASE_IMAGE: }}}}\n",
    }

    assert names(found_in(written(tmp_path, files))) == [
        ("FROM, stage 0", "? BASE_IMAGE is not set"),
        ("services.a.build.args FROM, stage tools", "alpine:3.20"),
    ]
