"""A stable digest of what a Python function does: its normalised syntax tree, formatting left out.

Functions and constants of the same module that the function names are part of the digest, so that a changed
helper or threshold is a changed recipe. Module names are not: Airflow mangles them at every parse.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import textwrap
from collections.abc import Callable
from hashlib import sha256
from types import FunctionType
from typing import Any

from airflow_provider_eventlog.core.errors import DeclarationError

_CONSTANTS = (str, bytes, int, float, bool, type(None))


def fingerprint(function: Callable[..., Any]) -> str:
    """Hex digest; raises DeclarationError if the function's source cannot be read."""
    parts: dict[str, str] = {}
    _collect(_unwrap(function), parts, "")
    return sha256("\n".join(f"{name}={parts[name]}" for name in sorted(parts)).encode()).hexdigest()


def _unwrap(function: Callable[..., Any]) -> FunctionType:
    inner = inspect.unwrap(function)
    if isinstance(inner, functools.partial) or not isinstance(inner, FunctionType):
        raise DeclarationError(f"The transform {function!r} must be a plain Python function.")
    return inner


def _collect(function: FunctionType, parts: dict[str, str], key: str) -> None:
    if key in parts:
        return
    parts[key] = _tree(function)
    names = _names(function.__code__)
    free = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found = {name: function.__globals__[name] for name in names if name in function.__globals__}
    found.update({name: cell.cell_contents for name, cell in free})
    for name, value in sorted(found.items()):
        if isinstance(value, FunctionType) and value.__module__ == function.__module__:
            _collect(value, parts, name)
        elif isinstance(value, _CONSTANTS) and not hasattr(builtins, name):
            parts[name] = repr(value)
        elif isinstance(value, (tuple, frozenset, list, dict, set)):
            parts[name] = _text(value)


def _text(value: object) -> str:
    """A constant as text that is the same in every process: sets in order, no addresses of objects."""
    if isinstance(value, (set, frozenset)):
        return "{" + ",".join(sorted(map(_text, value))) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(k)}:{_text(v)}" for k, v in value.items()) + "}"
    return repr(value) if isinstance(value, _CONSTANTS) else type(value).__qualname__


def _names(code: Any) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names |= _names(constant)
    return names


def _tree(function: FunctionType) -> str:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError) as error:
        raise DeclarationError(
            f"The source of the transform {function.__name__!r} cannot be read ({error}); "
            f"define it with `def` in a file."
        ) from error
    node = tree.body[0]
    if isinstance(node, ast.FunctionDef):
        node.name = "f"
        node.decorator_list = []
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(node, annotate_fields=False, include_attributes=False)
