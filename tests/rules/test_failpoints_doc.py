"""docs/testing.md lists every failpoint in the code, and no other."""

from __future__ import annotations

import ast
import re


def test_the_page_lists_the_failpoints_of_the_code(package, root):
    page = (root / "docs" / "testing.md").read_text()
    listed = re.findall(r"^\| `([a-z0-9_]+\.[a-z0-9_.]+)` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(names(package))


def test_no_two_places_have_one_name(package):
    found = names(package)
    assert len(found) == len(set(found)) > 0


def names(package):
    """What ``failpoint`` is called with, which must be a string that stands there."""
    calls = [
        node
        for source in package.values()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoint"
    ]
    return [ast.literal_eval(call.args[0]) for call in calls]
