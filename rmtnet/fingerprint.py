"""What a declaration says, as text that changes when the declared code does: to tell one study from another."""

import functools
import hashlib
import re
import types
from collections.abc import Iterator
from typing import Any


def text(value: Any) -> str:
    """A value as text: the same in every process, another one after its code was edited.

    Functions and classes of a study file are named with a hash of their code and of what they use from that file;
    those of installed packages by their name alone.
    """
    if isinstance(value, functools.partial):
        arguments = [*map(_argument, value.args), *(f"{key}={_argument(a)}" for key, a in value.keywords.items())]
        return f"{text(value.func)}({', '.join(arguments)})"
    if isinstance(value, type | types.FunctionType):
        parts = sorted(set(_parts(value, set())))
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
        return f"{value.__qualname__}#{digest}" if parts else value.__qualname__
    if isinstance(value, types.BuiltinFunctionType):
        return value.__qualname__
    # The address of an object is another one in every process.
    return value if isinstance(value, str) else re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _argument(value: Any) -> str:
    return repr(value) if isinstance(value, str) else text(value)


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    """The code of a function or class of a study file, and of what it refers to there."""
    if id(value) in seen or not _declared(value):
        return
    seen.add(id(value))
    if isinstance(value, type):
        members = {name: member for name, member in vars(value).items() if _matters(name, member)}
        used = {**{f"base {base.__qualname__}": base for base in value.__bases__}, **members}
    else:
        yield from _code(value.__code__)
        yield text((value.__defaults__, value.__kwdefaults__))
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        named = {name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__}
        used = {**dict(zip(value.__code__.co_freevars, cells, strict=True)), **named}
    for name, other in used.items():
        other = getattr(other, "__func__", getattr(other, "fget", other))
        if isinstance(other, type | types.FunctionType):
            yield from _parts(other, seen)
        elif isinstance(other, int | float | str | tuple | list | dict | functools.partial | None):
            yield f"{name} = {text(other)}"


def _matters(name: str, member: Any) -> bool:
    """Methods and class attributes; not what Python puts into every class."""
    return not name.startswith("__") or isinstance(member, types.FunctionType)


def _declared(value: Any) -> bool:
    # What runpy runs has this for its module's name.
    return isinstance(value, type | types.FunctionType) and value.__module__ == "<run_path>"


def _code(code: types.CodeType) -> Iterator[str]:
    # ``in {"a", "b"}`` makes a frozenset, whose order is another one in every process.
    constants = [
        sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
        for constant in code.co_consts
        if not isinstance(constant, types.CodeType)
    ]
    yield repr((code.co_code, code.co_names, constants))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inner)
