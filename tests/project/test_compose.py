"""References in Compose files, with one trap file for each case."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project.projects import found_in, names, pinned, put, shown, trap, written


def test_flow_style_is_read_and_edited(tmp_path: Path) -> None:
    """A flow-style image, bare or quoted, gets its digest inside the braces."""
    root = trap("compose_flow_style", tmp_path)

    assert shown(pinned(root)) == {
        "compose.yml": [
            'services: {web: {image: nginx:1.25@DIGEST, ports: ["80:80"]}, db: {image: "postgres:16@DIGEST"}}'
        ]
    }


def test_an_alias_is_edited_at_its_anchor(tmp_path: Path) -> None:
    """Two services that use one anchor are two references with one edit; a service's own image overrides a merged one."""
    root = trap("compose_aliases_and_fragments", tmp_path)
    found = found_in(root)

    assert names(found) == [
        ("services.web.image", "registry.example.com/shop/app:1.4.2"),
        ("services.worker.image", "registry.example.com/shop/app:1.4.2"),
        ("services.cache.image", "redis:7.2"),
        ("services.own.image", "memcached:1.6"),
    ]
    assert shown(pinned(root)) == {
        "compose.yml": [
            "x-image: &app registry.example.com/shop/app:1.4.2@DIGEST",
            "image: 'redis:7.2@DIGEST'   # the fragment's",
            "image: memcached:1.6@DIGEST",
        ]
    }


def test_block_scalars_keep_their_blocks(tmp_path: Path) -> None:
    """Folded, literal and next-line scalars are edited at their last character."""
    root = trap("compose_block_scalars", tmp_path)

    assert shown(pinned(root)) == {"compose.yml": ["nginx:1.25@DIGEST", "redis:7.2@DIGEST", "postgres:16@DIGEST"]}


def test_image_inside_environment_command_and_content_is_text(tmp_path: Path) -> None:
    """`image` inside environment, command and content is text; only `services.*.image` is a reference."""
    root = trap("compose_image_is_only_text", tmp_path)

    assert names(found_in(root)) == [("services.web.image", "nginx:1.25")]


def test_the_image_of_a_service_with_a_build_is_not_pinned(tmp_path: Path) -> None:
    """A service with `build`, of its own or by `extends`, has a local image that is not pinned."""
    root = trap("compose_built_here", tmp_path)
    found = found_in(root)

    assert [(image_ref.where, image_ref.build) for image_ref in found.image_refs] == [
        ("services.own.image", True),
        ("services.child.image", True),
        ("services.pulled.image", False),
    ]
    assert shown(pinned(root)) == {"compose.yml": ["image: nginx:1.25@DIGEST"]}


def test_a_build_in_the_override_counts_also_when_only_the_base_is_named(tmp_path: Path) -> None:
    """A `build` in the default override file makes the image local, even if only the base file is named."""
    root = trap("compose_built_by_the_override", tmp_path)
    found = found_in(root, "compose.yaml")

    assert [image_ref.build for image_ref in found.image_refs] == [True, False]


def test_a_digest_is_written_into_a_default(tmp_path: Path) -> None:
    """A digest goes into a variable's default, which a set variable replaces together with the tag."""
    root = trap("compose_default_of_a_variable", tmp_path)
    found = found_in(root)

    assert shown(pinned(root)) == {
        "compose.yml": [
            "image: nginx:${TAG:-1.25@DIGEST}",
            'image: "${IMAGE:-redis:7.2@DIGEST}"',
            "image: postgres:${PG-16@DIGEST}",
            "image: ${A:-${B:-memcached:1.6@DIGEST}}",
            "image: ${REGISTRY:-registry.example.com}/shop/app:1.4.2@DIGEST",
        ]
    }
    assert found.image_refs[5].override_only == "its end depends on a variable that is not set"
    assert (found.image_refs[6].resolved, found.image_refs[6].why) == (None, "MUST is not set: say which")


def test_two_dollar_signs_are_one_and_no_variable(tmp_path: Path) -> None:
    """`$$image` is the text `$image`, which is neither a variable nor a reference."""
    found = found_in(trap("compose_dollar_signs", tmp_path))

    assert found.image_refs[1].resolved is None
    assert str(found.image_refs[1].why).startswith('"$image" is not a repository name')


def test_a_variable_of_dotenv_is_edited_there_if_used_once(tmp_path: Path) -> None:
    """A variable of .env that is used once is edited there; one used twice or assembled needs an override."""
    root = trap("compose_dotenv", tmp_path)
    edited = pinned(root)

    assert shown(edited) == {
        ".env": ['export NGINX="1.25@DIGEST"   # of the front', "IMAGE='postgres:16@DIGEST'"],
    }
    assert [(refusal.image_ref.where, refusal.reason) for refusal in edited.refusals] == [
        ("services.one.image", "SHARED of .env is used in more than one place"),
        ("services.two.image", "SHARED of .env is used in more than one place"),
        ("services.put_together.image", "its end comes from MADE, which .env assembles from other variables"),
    ]


def test_dotenv_that_a_container_sees_is_not_edited(tmp_path: Path) -> None:
    """A .env that is also an env_file is not edited, because the container would get the digest."""
    edited = pinned(trap("compose_dotenv_is_env_file_too", tmp_path))

    assert edited.changes == ()
    assert edited.refusals[0].reason == ".env is also an env_file: a container would get the digest in NGINX"


def test_a_variable_that_always_ends_the_same_image_is_edited_once(tmp_path: Path) -> None:
    """A digest goes into .env if all uses of the variable, in all files, are the same image."""
    service = "    image: shop/app:${TAG}\n"
    files = {
        "compose.yml": f"include: [more/cron.yaml]\nservices:\n  web:\n{service}  worker:\n{service}",
        "more/cron.yaml": f"services:\n  cron:\n{service}",
        ".env": "TAG=1.25\n",
    }
    root = written(tmp_path, files)

    assert shown(pinned(root)) == {".env": ["TAG=1.25@DIGEST"]}
    (root / "more/cron.yaml").write_text("services:\n  cron:\n    image: shop/cron:${TAG}\n")
    assert shown(pinned(root)) == {}


def test_a_use_in_a_file_outside_the_scan_counts_too(tmp_path: Path) -> None:
    """A variable that another Compose file of the folder uses is not edited."""
    services = "services:\n  web:\n    image: nginx:${TAG}\n"
    root = written(
        tmp_path, {"compose.yml": services, ".env": "TAG=1.25\n", "prod.yml": services.replace("nginx", "x")}
    )

    assert found_in(root, "compose.yml").image_refs[0].override_only == "TAG of .env is used in more than one place"


def test_a_variable_after_the_tag_prevents_a_digest_before_it(tmp_path: Path) -> None:
    """A variable after the tag prevents a digest, because its value would follow the digest."""
    found = found_in(trap("compose_variable_behind", tmp_path))

    assert (found.image_refs[0].edit_range, names(found)) == (None, [("services.web.image", "nginx:1.25")])


def test_a_variable_inside_the_tag_prevents_a_digest(tmp_path: Path) -> None:
    """A tag such as `${NODE:-22}-alpine` gets no digest: a new NODE would run the old image under a new name.

    A digest that goes away with the variable is safe, and so is one after a name, which no registry has with that digest.
    """
    edited = pinned(trap("compose_variable_in_the_tag", tmp_path))

    assert shown(edited) == {
        "compose.yml": [
            "image: nginx:v${NGINX:-1.25@DIGEST}",
            "image: ${IMAGE2:-memcached:1.${MEM:-6@DIGEST}}",
            "image: ${NAME:-traefik}:3.1@DIGEST",
            "image: ${OWNER:-bitnami}/haproxy@DIGEST",
        ]
    }
    assert [(refusal.image_ref.where, refusal.reason.partition(":")[0]) for refusal in edited.refusals] == [
        ("services.suffix.image", "NODE sets part of its tag"),
        ("services.two.image", "MAJOR sets part of its tag"),
        ("services.from_env.image", "PG sets part of its tag"),
        ("services.inner.image", "HTTPD sets part of its tag"),
        ("services.unset.image", "FLAVOUR sets part of its tag"),
    ]


def test_services_of_every_profile_are_read(tmp_path: Path) -> None:
    """Services of every profile are read, since a profile may start at any time."""
    assert names(found_in(trap("compose_profiles", tmp_path))) == [
        ("services.web.image", "nginx:1.25"),
        ("services.debug.image", "busybox:1.36"),
    ]


def test_a_reference_that_begins_like_another_is_not_mistaken_for_it(tmp_path: Path) -> None:
    """`nginx:1.2`, `nginx:1.25` and `nginx` are three references, each edited alone."""
    root = trap("compose_prefix_of_another", tmp_path)

    assert shown(pinned(root)) == {
        "compose.yml": ["image: nginx:1.2@DIGEST", "image: nginx:1.25@DIGEST", "image: nginx@DIGEST"]
    }


def test_include_and_extends_are_followed_within_the_project(tmp_path: Path) -> None:
    """`include` and `extends` are followed within the project, with the extending file's `.env`."""
    root = trap("compose_include_and_extends", tmp_path)
    found = found_in(root, "compose.yml")

    (extended, extending, *others) = found.image_refs
    assert [(image_ref.path, image_ref.written) for image_ref in (extended, *others)] == [
        ("parts/base.yml", "nginx:${NGINX}"),
        ("parts/cache.yml", "redis:${REDIS:-7.2}"),
        ("parts/db.yml", "postgres:16"),
    ]
    assert (extending.path, extending.span, extending.resolved) == (extended.path, extended.span, extended.resolved)
    assert (extended.where[:9], extending.where[:9]) == ("extended ", "services.")
    assert shown(pinned(root))[".env"] == ["NGINX=1.25@DIGEST"]
    assert [(problem.path, problem.line) for problem in found.problems] == [("compose.yml", 4), ("compose.yml", 5)]
    assert "is remote: not followed" in found.problems[0].message
    assert "is outside of the project" in found.problems[1].message


def test_an_included_file_uses_the_projects_variables_first(tmp_path: Path) -> None:
    """An included file uses the project's variables, then its own; an extended file has only the project's."""
    root = trap("compose_include_variables", tmp_path)

    assert [
        image_ref.resolved.familiar() for image_ref in found_in(root, "compose.yml").image_refs if image_ref.resolved
    ] == [
        "x:top--o",
        "y:top-a-",
        "inc:top-a",
        "base:top-",
        "base:top-",
        "top:top",
    ]


def test_a_file_with_ambiguous_variables_is_not_resolved(tmp_path: Path) -> None:
    """A file that is both included and read alone has ambiguous variables, and is not resolved."""
    (image_ref,) = [
        image_ref
        for image_ref in found_in(trap("compose_include_variables", tmp_path)).image_refs
        if image_ref.path == "a/compose.yml"
    ]

    assert image_ref.resolved is None
    assert (
        image_ref.why == "this file is included twice, with different variables; scan one of the including files alone"
    )


def test_reset_removes_an_image_and_override_sets_one(tmp_path: Path) -> None:
    """Compose's YAML tags are read: `!reset` removes an image and `!override` sets one."""
    root = trap("compose_override_tags", tmp_path)

    assert shown(pinned(root)) == {"compose.yml": ["image: !override nginx:1.25@DIGEST"]}


def test_images_in_keys_other_than_image_are_found(tmp_path: Path) -> None:
    """Named contexts, image volumes, hooks, and the FROM lines of inline Dockerfiles are references too."""
    root = trap("compose_other_places", tmp_path)

    assert shown(pinned(root)) == {
        "compose.yml": [
            "base: docker-image://alpine:3.20@DIGEST",
            "FROM golang:1.23@DIGEST AS build",
            "COPY --from=busybox:1.36@DIGEST /b /b",
            "source: registry.example.com/assets:1@DIGEST",
            "- image: migrate/migrate:v4@DIGEST",
            "- base=docker-image://alpine:3.20@DIGEST",
        ]
    }


def test_the_platform_of_a_service_is_known(tmp_path: Path) -> None:
    """`platform` of a service is the platform of its image."""
    assert found_in(trap("compose_platform", tmp_path)).image_refs[0].platforms == ("linux/arm64",)


def test_an_existing_digest_is_replaced(tmp_path: Path) -> None:
    """An existing digest is replaced, also in a variable's default."""
    root = trap("compose_pinned_already", tmp_path)
    found = found_in(root)

    assert [image_ref.pinned.hex[:2] for image_ref in found.image_refs if image_ref.pinned] == ["00", "11"]
    assert shown(pinned(root)) == {"compose.yml": ["image: nginx:1.25@DIGEST", "image: redis:${TAG:-7.2@DIGEST}"]}


def test_escapes_are_accepted_before_the_end_and_refused_inside_a_default(tmp_path: Path) -> None:
    """After an escape the end of a scalar is certain, but a position inside an escaped text is not, and is refused."""
    root = trap("compose_escapes", tmp_path)

    assert shown(pinned(root)) == {
        "compose.yml": ['image: "ng\\x69nx:1.25@DIGEST"', 'image: &x !!str "redis:7.2@DIGEST"']
    }
    assert "escaped or folded" in str(found_in(root).image_refs[1].override_only)


def test_crlf_a_byte_order_mark_and_tabs_stay(tmp_path: Path) -> None:
    """CRLF, a byte order mark and tabs are unchanged."""
    root = trap("compose_crlf_bom_tabs", tmp_path)
    before = (root / "compose.yml").read_bytes()
    (change,) = pinned(root).changes
    digests = [f"@{image_ref.pinned}".encode() for image_ref in found_in(root).image_refs if image_ref.pinned]

    assert digests == []
    assert change.after.raw.startswith(b"\xef\xbb\xbfservices:\r\n  web:\t# a tab\r\n    image: nginx:1.25@sha256:")
    assert len(change.after.raw) == len(before) + 2 * len("@sha256:" + 64 * "0")
    assert change.after.raw.count(b"\r\n") == before.count(b"\r\n") == change.after.raw.count(b"\n")


def test_a_file_without_a_final_newline_gets_none(tmp_path: Path) -> None:
    """A file without a final newline gets none after an edit."""
    (change,) = pinned(trap("compose_no_final_newline", tmp_path)).changes

    assert change.after.text[-64:].isalnum()


def test_positions_count_characters_and_not_bytes(tmp_path: Path) -> None:
    """Non-ASCII characters before an image do not shift the edit's position."""
    root = trap("compose_beyond_ascii", tmp_path)

    assert shown(pinned(root)) == {"compose.yml": ['"café 🚀": {image: nginx:1.25@DIGEST} # 🚀 and so on']}


def test_an_alias_bomb_is_a_problem_and_other_files_are_read(tmp_path: Path) -> None:
    """Nested aliases are counted without expanding them; the file is a problem, and others are read."""
    lines = ["x0: &x0 {image: nginx:1.25}"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 10)]
    bomb = "\n".join([*lines, "services: {web: *x0}"]) + "\n"
    found = found_in(written(tmp_path, {"compose.yml": bomb, "b/compose.yml": "services: {web: {image: redis:7}}\n"}))

    assert [str(problem) for problem in found.problems] == [
        "compose.yml:7: its aliases expand to more than 1000000 values: not read"
    ]
    assert names(found) == [("services.web.image", "redis:7")]


def test_a_mapping_that_merges_itself_is_refused(tmp_path: Path) -> None:
    """A mapping that merges itself is refused, as in Compose."""
    root = written(tmp_path, {"compose.yml": "services:\n  web: &w\n    image: nginx:1.25\n    <<: *w\n"})

    assert [str(problem) for problem in found_in(root).problems] == [
        "compose.yml:2: an anchor contains an alias of itself: not read"
    ]


def test_a_service_may_be_in_several_documents(tmp_path: Path) -> None:
    """As in Compose, later documents of a file may omit what earlier ones set."""
    text = (
        "services: {web: {image: nginx:1.25}}\n---\nservices: {web: {environment: {A: b}}, cache: {image: redis:7}}\n"
    )
    root = written(tmp_path, {"compose.yml": text})

    assert names(found_in(root)) == [("services.web.image", "nginx:1.25"), ("services.cache.image", "redis:7")]


def test_a_build_in_any_document_makes_the_service_local(tmp_path: Path) -> None:
    """A `build` in any document of the file makes the service's image local."""
    text = "services: {web: {image: shop/app:1}}\n---\nservices: {web: {build: .}}\n"

    assert pinned(written(tmp_path, {"compose.yml": text})).changes == ()


def test_a_link_is_a_compose_file_of_its_own_folder(tmp_path: Path) -> None:
    """As in Compose, a link is read by its own name, with the .env beside it."""
    files = {"deploy/prod.yaml": "services: {web: {image: 'a:$T'}}\n", ".env": "T=1\n", "deploy/.env": "T=2\n"}
    root = written(tmp_path, files)
    (root / "compose.yaml").symlink_to("deploy/prod.yaml")

    assert names(found_in(root)) == names(found_in(root, "compose.yaml")) == [("services.web.image", "a:1")]
    assert [image_ref.path for image_ref in found_in(root).image_refs] == ["deploy/prod.yaml"]


def test_an_override_may_be_a_link(tmp_path: Path) -> None:
    """The default override file may be a link to anywhere in the project."""
    files = {
        "compose.yaml": "services: {web: {image: shop/app:1}}\n",
        "dev/extra.yaml": "services: {web: {build: .}}\n",
    }
    root = written(tmp_path, files)
    (root / "compose.override.yaml").symlink_to("dev/extra.yaml")
    found = found_in(root)

    assert found.problems == ()
    assert [image_ref.build for image_ref in found.image_refs] == [True]


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ('A="first\nTAG=9\nlast"\n', "a:none"),
        ("A='first\nTAG=9\n'\n", "a:none"),
        ("A=first\u2028TAG=9\n", "a:none"),
        ("TAG=1.2 # as tested\n", "a:1.2"),
        ("TAG=1.2\t\r\n", "a:1.2"),
        ("TAG='1.2' # as tested\nA=it's\n", "a:1.2"),
        ("X=$\nTAG=1.2$X\n", "? the value of TAG in .env is not evaluated"),
        ("TAG='1'2\n", "? the value of TAG in .env is not evaluated"),
        ("TAG=$\nTAG=3\n", "a:3"),
    ],
)
def test_values_of_an_env_file_are_read(tmp_path: Path, env: str, named: str) -> None:
    """In an env file, lines within quotes set nothing, and a value that is not evaluated is not empty."""
    root = written(tmp_path, {"compose.yml": 'services: {web: {image: "a:${TAG-none}"}}\n', ".env": env})

    assert names(found_in(root)) == [("services.web.image", named)]


def test_an_env_file_with_an_open_quote_is_a_problem(tmp_path: Path) -> None:
    """An env file with an open quote, from which Compose reads nothing, is a problem."""
    root = written(tmp_path, {"compose.yml": 'services: {web: {image: "a:$TAG"}}\n', ".env": 'A=1\nTAG="2\n'})

    assert [str(problem) for problem in found_in(root).problems] == [".env:2: has an unclosed quote"]


DOCKERFILE = "ARG BASE=node:20\nARG TAG=1\nFROM ${BASE} AS build\nFROM alpine:3.20\nFROM shop/base:${TAG}\n"


@pytest.mark.parametrize(
    ("args", "more"),
    [
        ('{BASE: "node:22"}', [("services.web.build.args FROM, stage build", "node:22")]),
        ("[BASE=node:$NODE]", [("services.web.build.args FROM, stage build", "node:22")]),
        (
            "{BASE: node:20, TAG: '1', OTHER: x}",  # equal to the defaults, but they get digests when they are pinned
            [
                ("services.web.build.args FROM, stage 2", "shop/base:1"),
                ("services.web.build.args FROM, stage build", "node:20"),
            ],
        ),
        ("{BASE: }", []),
        ("[BASE]", []),
        (
            "{TAG: 2, BASE: '${X:?none}'}",
            [
                (
                    "services.web.build.args FROM, stage build",
                    "? the value of BASE is not evaluated: it has quotes or escapes inside, or too many variables",
                ),
                ("services.web.build.args FROM, stage 2", "shop/base:2"),
            ],
        ),
    ],
)
def test_a_build_argument_changes_the_base_image(tmp_path: Path, args: str, more: list[tuple[str, str]]) -> None:
    """A build argument in Compose may change the base image of a Dockerfile that is also built as it is."""
    text = f"services: {{web: {{build: {{context: ./app, args: {args}}}}}}}\n"
    root = written(tmp_path, {"compose.yml": text, ".env": "NODE=22\n", "app/Dockerfile": DOCKERFILE})
    found = names(found_in(root))

    assert found[:3] == [
        ("FROM, stage build", "node:20"),
        ("FROM, stage 1", "alpine:3.20"),
        ("FROM, stage 2", "shop/base:1"),
    ]
    assert sorted(found[3:]) == sorted(more)


def test_an_image_of_a_build_argument_needs_a_source_policy(tmp_path: Path) -> None:
    """An image from a build argument needs a source policy, because the Dockerfile may use the argument elsewhere."""
    text = "services: {web: {build: {context: app, args: {BASE: node:22}}}}\n"
    root = written(tmp_path, {"compose.yml": text, "app/Dockerfile": DOCKERFILE})

    assert "compose.yml" not in shown(pinned(root))


def test_a_build_argument_that_equals_the_default_does_not_prevent_its_pin(tmp_path: Path) -> None:
    """The default of a Dockerfile is pinned, and the build argument of the same image stays a reference without a digest."""
    text = "services: {web: {build: {context: app, args: {BASE: node:22}}}}\n"
    root = written(tmp_path, {"compose.yml": text, "app/Dockerfile": "ARG BASE=node:22\nFROM $BASE\n"})
    edited = pinned(root)
    put(root, edited)

    assert [each.image_ref.path for each in edited.refusals] == ["compose.yml"]
    assert (root / "app/Dockerfile").read_text().startswith("ARG BASE=node:22@sha256:")
    assert (root / "compose.yml").read_text() == text


def test_too_many_build_arguments_are_a_problem(tmp_path: Path) -> None:
    """Too many build arguments, each of which causes another read of a Dockerfile, are a problem."""
    services = "".join(f"  s{number}: {{build: {{args: {{BASE: a}}}}}}\n" for number in range(70))
    big = DOCKERFILE + "# " + "x" * 250_000 + "\n"
    found = found_in(written(tmp_path, {"compose.yml": f"services:\n{services}", "Dockerfile": big}))

    assert {problem.message for problem in found.problems} == {
        "too many build arguments: their effect on Dockerfiles is not read"
    }
