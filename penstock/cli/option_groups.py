"""Options of a verb that belong together, handed on as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any

Command = Callable[..., Any]


def option_group(name: str, kind: type[Any], *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Adds options to a verb, in this order, and hands what they say on as the argument `name`.

    :param kind: a dataclass, whose fields have the options' names.
    """

    def decorate(function: Command) -> Command:
        @wraps(function)
        def call(*arguments: Any, **values: Any) -> Any:
            own = {field.name: values.pop(field.name) for field in fields(kind)}
            return function(*arguments, **{name: kind(**own)}, **values)

        command: Command = call
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
