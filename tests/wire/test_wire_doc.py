"""docs/wire.md says what the code does: every kind, every field with its type, every limit."""

from __future__ import annotations

import re
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from gradmq import layout, link
from gradmq.wire import checks, codec, messages

DOC = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()

MESSAGES = {message.KIND: message for message in get_args(messages.Message)}


def structures_in(hint: Any) -> set[type]:
    """The dataclasses that a field's type names, at any depth."""
    own: set[Any] = {hint} if is_dataclass(hint) else set()
    metadata = getattr(hint, "__metadata__", ())
    return own.union(*(structures_in(inner) for inner in (*get_args(hint), *metadata)))


def snake(cls: Any) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def all_structures() -> dict[str, type]:
    found: set[type] = set()
    todo: list[type] = list(MESSAGES.values())
    while todo:
        hints = get_type_hints(todo.pop(), include_extras=True).values()
        new = set().union(*map(structures_in, hints)) - found - set(MESSAGES.values())
        found |= new
        todo += new
    return {snake(cls): cls for cls in found}


STRUCTURES = all_structures()
SCALARS = {int: "uint", float: "float", str: "str", bytes: "bin", bool: "bool", Any: "any"}


def type_in_words(hint: Any) -> str:
    """A field's type as the page writes it."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint]
    if origin is Annotated:
        is_address = args[1] is messages.ADDRESS
        return "address" if is_address else snake(args[1])
    if origin in (Union, types.UnionType):
        return f"{type_in_words(args[0])} or nil"
    if origin is Literal:
        return f"one of {', '.join(args)}"
    if origin is dict:
        return f"map of {type_in_words(args[0])} to {type_in_words(args[1])}"
    if origin is tuple and args == (int, int):
        return "version"
    assert (origin is tuple and args[1] is Ellipsis) or is_dataclass(hint), hint
    return snake(hint) if is_dataclass(hint) else f"list of {type_in_words(args[0])}"


def default_in_words(field: Field[Any]) -> str:
    if field.name == "payload":
        return "none"
    if field.default_factory is not MISSING:
        return "{}" if field.default_factory is dict else "[]"
    if field.default is MISSING:
        return "required"
    value = field.default
    words = {None: "nil", True: "true", False: "false", (): "[]"}
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value) if isinstance(value, float) or type(value) is int else words[value]


def fields_in_code(cls: type) -> dict[str, tuple[str, str]]:
    hints = get_type_hints(cls, include_extras=True)
    return {
        f.name: (
            "parts" if f.name == "payload" else type_in_words(hints[f.name]),
            default_in_words(f),
        )
        for f in fields(cls)
    }


def sections() -> dict[str, str]:
    """The page's third-level sections by heading."""
    parts = re.split(r"^### +(.+)$", DOC, flags=re.MULTILINE)
    return {
        heading: re.split(r"^## ", body, flags=re.MULTILINE)[0]
        for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def fields_in_doc(name: str) -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|", sections()[name], flags=re.MULTILINE)
    return {
        field: (kind.replace("pair of uint", "version"), absent.strip("`"))
        for field, kind, absent in rows
    }


@pytest.mark.parametrize("name", sorted({**MESSAGES, **STRUCTURES}))
def test_the_page_has_every_field_with_its_type_and_what_its_absence_means(name: str) -> None:
    assert fields_in_doc(name) == fields_in_code({**MESSAGES, **STRUCTURES}[name])


def test_the_page_describes_nothing_that_the_code_does_not_have() -> None:
    described = {name for name in sections() if re.fullmatch(r"[a-z_]+", name)}
    assert described == set(MESSAGES) | set(STRUCTURES)


def test_the_page_says_of_every_kind_who_sends_it_to_whom() -> None:
    senders = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| [^|]+ \|[^|]*\|$", DOC, re.MULTILINE)
    assert sorted(senders) == sorted(MESSAGES)


def test_every_field_says_what_it_means() -> None:
    rows = re.findall(r"^\| `\w+` \| [^|]+ \| [^|]+ \| ([^|]*) \|$", DOC, re.MULTILINE)
    assert rows
    assert all(meaning.strip() for meaning in rows)


def test_the_page_is_of_this_wire_version() -> None:
    assert f"# The wire, version {messages.WIRE_VERSION}\n" in DOC
    assert f"an integer, here {messages.WIRE_VERSION}." in DOC


def test_the_page_has_the_limits_of_the_code() -> None:
    limits = dict(re.findall(r"^\| ([^|`]+) \| (\d+) \|$", DOC, re.MULTILINE))
    assert limits == {
        "bytes of a part": str(codec.PART_BYTES),
        "bytes of a header": str(codec.MAX_HEADER_BYTES),
        "items of a list or map, bytes of a string or binary in a header": str(codec.MAX_ITEMS),
        "nesting of maps and lists inside a free value": str(checks.MAX_DEPTH),
        "tensors of a layout": str(layout.MAX_TENSORS),
        "elements of a layout": str(layout.MAX_ELEMENTS),
        "dimensions of a tensor": str(layout.MAX_DIMENSIONS),
        "bytes of a tensor's name": str(layout.MAX_NAME_BYTES),
        "shards of a layout": str(layout.MAX_SHARDS),
        "window of a session on a shard": str(messages.MAX_WINDOW),
    }


def test_the_page_has_the_topics_of_the_code() -> None:
    for topic in (link.TOPIC_NEWEST, link.TOPIC_RELEASES, link.TOPIC_BEACONS):
        assert f"`{topic.decode()}`" in DOC


def test_the_page_names_every_dtype_of_a_layout() -> None:
    for dtype in layout.DTYPES:
        assert f"`{dtype}`" in DOC
