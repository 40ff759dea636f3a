"""`boltseal admin rules`, `test` and `plan`: show the rules, which of them decides about a tag, and what other rules would do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from boltseal.cli.command_group import HelpCommand, HelpGroup
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.table import print_table
from boltseal.cli.tag_target import TagTarget, takes_settings_target, takes_tag_target
from boltseal.commands.rules import PlannedTag, RuleInfo, rule_tables
from boltseal.commands.text import counted
from boltseal.errors import Invalid, quote
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.rules import Keep, Mode

admin_rules = typer.Typer(
    cls=HelpGroup,
    help="Show the rules in force, which of them decides about a tag, or what other rules would do.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@admin_rules.callback()
@takes_settings_target
def show(context: typer.Context, *, target: TagTarget, as_json: JsonOption = False) -> None:
    """Show the rules in force, in order: the first that matches a tag decides."""
    if context.invoked_subcommand is not None:
        if target.given:
            with CommandOutput(f"admin-rules-{context.invoked_subcommand}", as_json=as_json):
                raise Invalid(f"options of a registry or a configuration come after `{context.invoked_subcommand}`")
        return
    with CommandOutput("admin-rules", as_json=as_json) as output:
        in_force = target.rules("admin rules").rules()
        for rule in in_force:
            more = {"settle": rule.settle, "require": rule.require}
            output.add(number=rule.number or None, built_in=not rule.number, **_fields(rule), **more)
        if not as_json:
            rows = [
                (_number(rule), *_fields(rule).values(), rule.settle or "", " and ".join(rule.require))
                for rule in in_force
            ]
            print_table(*_used(("RULE", "REPOSITORY", "TAG", "MODE", "KEEP", "SETTLE", "REQUIRE"), rows))


@admin_rules.command("test", cls=HelpCommand, epilog="Example: boltseal admin rules test shop/app 1.4.2")
@takes_settings_target
def show_decision(
    repository: Annotated[
        str, typer.Argument(metavar="REPOSITORY", show_default=False, help="A repository, as shop/app.")
    ],
    tag: Annotated[str, typer.Argument(metavar="TAG", show_default=False, help="A tag, as 1.4.2.")],
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Show which rule decides about a tag that is pushed now, and why. A sealed tag stays sealed."""
    with CommandOutput("admin-rules-test", as_json=as_json) as output:
        host, _, path = repository.partition("/")
        if path and ("." in host or ":" in host):
            raise Invalid(f"{quote(repository)} starts with a host; give the repository without it: {quote(path)}")
        decision = target.rules("admin rules test").decide(Repository(repository), Tag(tag))
        rule = decision.rule
        output.add(
            ref=f"{repository}:{tag}",
            status=rule.mode,
            reason=decision.reason,
            keep=rule.keep,
            settle=rule.settle,
            require=rule.require,
        )
        output.print(str(rule.mode))
        output.say(f"{repository}:{tag} is {_effect(rule)}: {decision.reason}")
        if rule.require:
            output.say(f"an image needs {' and '.join(rule.require)}")


@admin_rules.command("plan", cls=HelpCommand, epilog="Example: boltseal admin rules plan new.toml --data ./data")
@takes_tag_target
def show_plan(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", show_default=False, help="A configuration file with other [[rule]] tables."),
    ],
    every: Annotated[bool, typer.Option("--all", help="Also list tags on which the rules have no effect.")] = False,
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Show what the rules of another configuration file would do to every tag. Nothing is changed.

    Rules decide about pushes, so an effect shows at the tag's next push. A sealed tag stays sealed under any rules.
    Of the file only the [[rule]] tables are read.
    """
    with CommandOutput("admin-rules-plan", as_json=as_json) as output:
        tables = rule_tables(file)
        plan = target.rules("admin rules plan").plan(tables, every=every)
        tags = sorted(plan.tags, key=lambda each: (each.repository, each.tag))
        for each in tags:
            output.add(
                ref=f"{each.repository}:{each.tag}",
                status=str(each.effect),
                reason=f"{_named(each.before)} decides now, then {_named(each.after)}",
                mode=each.mode,
                before=_document(each.before),
                after=_document(each.after),
            )
        if tags and not as_json:
            print_table(("TAG", "IS NOW", "EFFECT", "RULE NOW", "RULE THEN"), [_row(each) for each in tags])
        if not tables:
            output.say(f"{file} has no [[rule]]: only the built-in rules would be in force")
        changed = sum(each.effect != "none" for each in tags)
        output.say(f"the rules have an effect on {changed} of {counted(plan.looked_at, 'tag')}")


def _number(rule: RuleInfo) -> str:
    return str(rule.number) if rule.number else "built-in"


def _named(rule: RuleInfo) -> str:
    return f"rule {rule.number}" if rule.number else "a built-in rule"


def _row(each: PlannedTag) -> tuple[str, ...]:
    name = f"{each.repository}:{each.tag}"
    return (name, each.mode, str(each.effect), _number(each.before), _number(each.after))


def _document(rule: RuleInfo) -> dict[str, Any]:
    return asdict(rule)


def _fields(rule: RuleInfo) -> dict[str, str]:
    return {"repository": rule.repository, "tag": rule.tag, "mode": str(rule.mode), "keep": rule.keep}


def _used(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the table without those of its last two columns that are empty, which few registries use."""
    first_optional = len(columns) - 2
    used = [at for at in range(len(columns)) if at < first_optional or any(row[at] for row in rows)]
    return tuple(columns[at] for at in used), [tuple(row[at] for at in used) for row in rows]


def _effect(rule: RuleInfo) -> str:
    match rule.mode:
        case Mode.SEALED:
            keep = Keep.parse(rule.keep)
            days = keep.days or 0
            kept = {None: "kept permanently", 0: "deletable"}.get(keep.days, f"kept for {counted(days, 'day')}")
            first = f"its index, or {rule.settle} after its first push"
            return f"sealed at {first if rule.settle else 'its first push'}, {kept}"
        case Mode.FLOATING:
            return "mutable (mode floating): it may move, and every move is recorded"
        case Mode.APPEND_ONLY:
            return "append-only: it may move to an image that contains all it has now"
