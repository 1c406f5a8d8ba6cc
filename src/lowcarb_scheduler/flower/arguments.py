"""Whose a keyword is: the strategy's own, or ours."""

from __future__ import annotations

import inspect
from inspect import Parameter
from types import MethodWrapperType
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_OURS: Final = {"context", *Settings.model_fields}
_BY_NAME: Final = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def divided(
    own_init: Callable[..., None], keywords: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return which keywords belong to a strategy's own ``__init__``, and which to us.

    A keyword that it does not name is ours, so that a slip of the pen is met with the nearest setting; where
    it takes any keyword, only settings are.

    Raises
    ------
    InputError
        If a keyword is both.
    """
    # That of object says it takes anything, and takes nothing.
    nothing = isinstance(own_init, MethodWrapperType)
    parameters = [] if nothing else [*inspect.signature(own_init).parameters.values()]
    named = {parameter.name for parameter in parameters if parameter.kind in _BY_NAME}
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
    if both := sorted(named & _OURS & set(keywords)):
        fix = "give it to the strategy, and wrap that: carbon_aware(strategy, ...)"
        raise InputError(both[0], "is an argument of the strategy and a setting of ours", fix)
    theirs = {
        name: value for name, value in keywords.items() if name in named or (takes_any and name not in _OURS)
    }
    return theirs, {name: value for name, value in keywords.items() if name not in theirs}
