"""`boltseal admin rules` and `boltseal admin rules test`: show the rules, or which of them decides about a tag."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.command_group import HelpCommand, HelpGroup
from boltseal.cli.options import ConfigOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import settings_of
from boltseal.cli.table import print_table
from boltseal.commands.text import counted
from boltseal.errors import Invalid, quote
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.durations import format_duration
from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import Mode, Rule

admin_rules = typer.Typer(
    cls=HelpGroup,
    help="Show the rules in force, or which of them decides about a tag.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@admin_rules.callback()
def show(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the rules in force, in order: the first that matches a tag decides."""
    if context.invoked_subcommand is not None:
        return
    with CommandOutput("admin-rules", as_json=as_json) as output:
        in_force = settings_of(config).rules.rules
        for rule in in_force:
            output.add(number=rule.number or None, built_in=not rule.number, **_fields(rule), settle=_settle(rule))
        if not as_json:
            rows = [(_number(rule), *_fields(rule).values(), _settle(rule) or "") for rule in in_force]
            print_table(*_used(("RULE", "REPOSITORY", "TAG", "MODE", "KEEP", "SETTLE"), rows))


@admin_rules.command("test", cls=HelpCommand, epilog="Example: boltseal admin rules test shop/app 1.4.2")
def show_decision(
    repository: Annotated[
        str, typer.Argument(metavar="REPOSITORY", show_default=False, help="A repository, as shop/app.")
    ],
    tag: Annotated[str, typer.Argument(metavar="TAG", show_default=False, help="A tag, as 1.4.2.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which rule decides about a tag that is pushed now, and why. A sealed tag stays sealed."""
    with CommandOutput("admin-rules-test", as_json=as_json) as output:
        host, _, path = repository.partition("/")
        if path and ("." in host or ":" in host):
            raise Invalid(f"{quote(repository)} starts with a host; give the repository without it: {quote(path)}")
        decision = decide(settings_of(config).rules, Repository(repository), Tag(tag))
        output.add(
            ref=f"{repository}:{tag}",
            status=decision.mode,
            reason=decision.why,
            keep=str(decision.keep),
            settle=_settle(decision),
        )
        output.print(str(decision.mode))
        output.say(f"{repository}:{tag} is {_effect(decision)}: {decision.why}")


def _number(rule: Rule) -> str:
    return str(rule.number) if rule.number else "built-in"


def _fields(rule: Rule) -> dict[str, str]:
    return {
        "repository": str(rule.repository),
        "tag": str(rule.tag),
        "mode": str(rule.mode),
        "keep": str(rule.keep),
    }


def _settle(rule: Rule) -> str | None:
    return format_duration(rule.settle_us) if rule.settle_us else None


def _used(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the table without its last column if that is empty, which few registries use."""
    if any(row[-1] for row in rows):
        return columns, rows
    return columns[:-1], [row[:-1] for row in rows]


def _effect(rule: Rule) -> str:
    match rule.mode:
        case Mode.SEALED:
            days = rule.keep.days or 0
            kept = {None: "kept permanently", 0: "deletable"}.get(rule.keep.days, f"kept for {counted(days, 'day')}")
            first = f"its index, or {format_duration(rule.settle_us)} after its first push"
            return f"sealed at {first if rule.settle_us else 'its first push'}, {kept}"
        case Mode.FLOATING:
            return "mutable (mode floating): it may move, and every move is recorded"
        case Mode.APPEND_ONLY:
            return "append-only: it may move to an image that contains all it has now"
