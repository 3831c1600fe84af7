"""The package as source: what the rules of this folder are checked on, without importing it."""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Import:
    """One module that another one imports; ``types_only`` under ``if TYPE_CHECKING``."""

    module: str
    line: int
    types_only: bool


class Source:
    """One parsed file of the package."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.tree = ast.parse(path.read_bytes(), filename=str(path))

    def at(self, line: int) -> str:
        return f"{self.name} line {line}"

    @cached_property
    def imports(self) -> list[Import]:
        """Every import, wherever it stands: in functions too, and by import_module("...")."""
        found: list[Import] = []
        self._collect(self.tree, False, found)
        return found

    def _collect(self, node: ast.AST, types_only: bool, found: list[Import]) -> None:
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, types_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found += [
                Import(f"{base}.{alias.name}", node.lineno, types_only) for alias in node.names
            ]
        elif isinstance(node, ast.Call) and _last_name(node.func) in _IMPORTERS and node.args:
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                found.append(Import(target.value, node.lineno, types_only))
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            for child in node.body:
                self._collect(child, True, found)
            for child in node.orelse:
                self._collect(child, types_only, found)
            return
        for child in ast.iter_child_nodes(node):
            self._collect(child, types_only, found)


_IMPORTERS = ("import_module", "__import__")


def _last_name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def package() -> dict[str, Source]:
    """Every module of gradmq by its name, the linked role folders under gradmq's name."""
    sources: dict[str, Source] = {}
    for folder, _, files in os.walk(ROOT / "src" / "gradmq", followlinks=True):
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                parts = path.relative_to(ROOT / "src").with_suffix("").parts
                name = ".".join(parts).removesuffix(".__init__")
                sources[name] = Source(name, path)
    return sources
