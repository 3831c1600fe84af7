"""Checks of what a peer sent, made once from the annotations of the messages.

A check takes a plain value out of msgpack and its name, and returns what the message holds: lists
become tuples, maps become dataclasses. Anything else raises RemoteProtocolError with the value.
"""

from __future__ import annotations

import re
import reprlib
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from gradmq.errors import RemoteProtocolError

#: How deep maps and lists may nest where a message holds a free structure (settings, status).
MAX_DEPTH = 16

Check = Callable[[Any, str], Any]

_PLAIN = (types.NoneType, bool, int, float, str, bytes)


def _check_for(hint: Any, name: str) -> Check:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _optional(_check_for(next(a for a in args if a is not type(None)), name))
    if origin is Annotated:
        is_pattern = isinstance(args[1], re.Pattern)
        return _matching(args[1]) if is_pattern else _map_like(args[1], name)
    if origin is Literal:
        return _one_of(args)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return _list_of(_check_for(args[0], name))
        return _exactly([_check_for(a, name) for a in args])
    if origin is dict:
        return _map_of(_check_for(args[0], name), _check_for(args[1], name))
    if hint is Any:
        return _free
    if is_dataclass(hint):
        return _nested(typing.cast(type, hint), name)
    return _SCALARS[hint]


def show(value: Any) -> str:
    """A value of a peer for an error's text: short, however long or deep it is."""
    return reprlib.repr(value)[:40]


def _free(value: Any, name: str, depth: int = MAX_DEPTH) -> Any:
    """What is kept as it came must at least be shallow enough to be sent on."""
    if type(value) in (dict, list):
        if depth == 0:
            raise RemoteProtocolError(f"{name}: nested deeper than {MAX_DEPTH}")
        for item in value.values() if type(value) is dict else value:
            _free(item, name, depth - 1)
    elif type(value) not in _PLAIN:
        raise RemoteProtocolError(f"{name}: {show(value)} is of an extension type")
    return value


def _int(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise RemoteProtocolError(f"{name}: {show(value)} is not a count")
    return value


def _float(value: Any, name: str) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise RemoteProtocolError(f"{name}: {show(value)} is not a number")


def _exact(kind: type) -> Check:
    def check(value: Any, name: str) -> Any:
        if type(value) is not kind:
            raise RemoteProtocolError(f"{name}: {show(value)} is not of type {kind.__name__}")
        return value

    return check


def _matching(pattern: re.Pattern[str]) -> Check:
    def check(value: Any, name: str) -> Any:
        if type(value) is not str or not pattern.fullmatch(value):
            raise RemoteProtocolError(f"{name}: {show(value)} is not of the form {pattern.pattern}")
        return value

    return check


_SCALARS: dict[Any, Check] = {
    int: _int,
    float: _float,
    str: _exact(str),
    bytes: _exact(bytes),
    bool: _exact(bool),
}


def _optional(check: Check) -> Check:
    return lambda value, name: None if value is None else check(value, name)


def _one_of(allowed: tuple[Any, ...]) -> Check:
    def check(value: Any, name: str) -> Any:
        if value not in allowed:
            raise RemoteProtocolError(f"{name}: {show(value)}, known are {', '.join(allowed)}")
        return value

    return check


def _list_of(check: Check) -> Check:
    def checked(value: Any, name: str) -> Any:
        if type(value) is not list:
            raise RemoteProtocolError(f"{name}: {show(value)} is not a list")
        return tuple([check(item, name) for item in value])

    return checked


def _exactly(checks: list[Check]) -> Check:
    def checked(value: Any, name: str) -> Any:
        if type(value) is not list or len(value) != len(checks):
            raise RemoteProtocolError(f"{name}: {show(value)} is not a list of {len(checks)}")
        return tuple([check(item, name) for check, item in zip(checks, value, strict=True)])

    return checked


def _map_of(check_key: Check, check_value: Check) -> Check:
    def checked(value: Any, name: str) -> Any:
        if type(value) is not dict:
            raise RemoteProtocolError(f"{name}: {show(value)} is not a map")
        return {check_key(k, name): check_value(v, name) for k, v in value.items()}

    return checked


def _nested(cls: type, where: str) -> Check:
    read = fields_reader(cls, where)

    def checked(value: Any, name: str) -> Any:
        if type(value) is not dict:
            raise RemoteProtocolError(f"{name}: {show(value)} is not a map")
        return cls(**read(value))

    return checked


def _map_like(cls: type, where: str) -> Check:
    """A map that stays one: what ``cls`` names in it is checked, the rest is free."""
    read, is_map = fields_reader(cls, where), _map_of(_SCALARS[str], _free)

    def checked(value: Any, name: str) -> Any:
        plain = is_map(value, name)
        read(plain)
        return plain

    return checked


def fields_reader(cls: type, where: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Reads the fields of a dataclass, but for its payload, out of a map that may hold more.

    ``where`` is what an error's text calls the map.
    """
    hints = get_type_hints(cls, include_extras=True)
    table = [
        (
            f.name,
            f"{where}.{f.name}",
            _check_for(hints[f.name], f"{where}.{f.name}"),
            f.default is MISSING and f.default_factory is MISSING,
        )
        for f in fields(cls)
        if f.name != "payload"
    ]

    def read(header: dict[str, Any]) -> dict[str, Any]:
        out = {}
        for key, name, check, required in table:
            if key in header:
                out[key] = check(header[key], name)
            elif required:
                raise RemoteProtocolError(f"{where} without {key!r}")
        return out

    return read
