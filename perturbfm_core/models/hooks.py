"""Guards of the methods of plug-in models that stages call beside fitting: what fails or returns something else is named."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from perturbfm_core.errors import ModelError, named_fault, of_package
from perturbfm_core.graphs.side_info import Needs


def _all_text(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _text_or_none(found: Any) -> bool:
    return found is None or isinstance(found, str)


# {method: what it must return, and whether something is that}.
_HOOKS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "needs": ("a Needs", lambda x: isinstance(x, Needs)),
    "modules": ("a tuple of names of modules", lambda x: isinstance(x, tuple) and _all_text(x)),
    "identity": (
        "a dictionary of text by text",
        lambda x: isinstance(x, dict) and _all_text([*x, *x.values()]),
    ),
    "absent": ("text or None", _text_or_none),
    "cannot": ("text or None", _text_or_none),
    "searchable": ("a dictionary of search dimensions", lambda x: isinstance(x, dict)),
    "condition_process": ("a ConditionProcess or None", lambda x: x is None or hasattr(x, "posterior")),
}


def check_hooks(where: str, item: type) -> None:
    """Refuse a model class one of whose hooks cannot be called.

    Raises
    ------
    ModelError
        Naming the class, by `where`, and the hook.
    """
    for hook in _HOOKS:
        if not callable(found := getattr(item, hook)):
            msg = f"{where}: {hook} must be a method, found {type(found).__name__}"
            raise ModelError(msg)


def guard_hooks(item: type) -> None:
    """Make the hooks that a class has of a plug-in raise `ModelError` where they fail or return something else."""
    for hook in _HOOKS:
        base = next(b for b in item.__mro__ if hook in vars(b))
        if not of_package(base.__module__):
            setattr(item, hook, _guarded(hook, base))


def _guarded(hook: str, base: type) -> Callable[..., Any]:
    function = vars(base)[hook]
    wanted, is_wanted = _HOOKS[hook]

    @wraps(function)
    def call(self: Any, *given: Any) -> Any:
        # The name is the instance's: a class that inherits the hook is another model.
        with named_fault(f"model {self.name!r}, {hook}", base.__module__, ModelError):
            found = function.__get__(self, type(self))(*given)
        if not is_wanted(found):
            msg = f"model {self.name!r}: {hook} must return {wanted}, found {found!r:.60}"
            raise ModelError(msg)
        return found

    return call
