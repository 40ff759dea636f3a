"""Adds parameters to a command's function, so that options which many commands take are declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

CommandFunction = Callable[..., Any]


def expanded(
    function: CommandFunction,
    declared: Mapping[str, tuple[Any, Any]],
    make: Callable[..., Mapping[str, Any]],
    replace: str = "",
) -> CommandFunction:
    """Return a function that takes further parameters, as typer reads its signature.

    `declared`: annotation and default of each further parameter. `make` is called with their values, and returns what
    `function` gets in their place. `replace`: the parameter of `function` at whose place they are; "": at the end.
    """
    own = inspect.signature(function, eval_str=True).parameters
    further = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in declared.items()
    ]
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        keyword = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += further if name == replace else [keyword]
    if not replace:
        parameters += further

    @wraps(function)
    def call(**values: Any) -> Any:
        given = {name: values.pop(name) for name in declared}
        return function(**values, **make(**given))

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer and inspect read it
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call
