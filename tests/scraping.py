"""What is scraped, read as Prometheus reads it, and what dashboards and rules ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

OPERATIONS = Path(__file__).parents[1] / "docs" / "operations"

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABELS = rf'{_NAME}="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABELS}(?:,{_LABELS})*)\}})? (\S+)")


def scraped(text: str) -> dict[str, dict[str, float]]:
    """Samples by name and labels; fails for what a scraper would not take."""
    found: dict[str, dict[str, float]] = {}
    kinds: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds, f"{name} comes twice"
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            family = list(kinds)[-1]
            suffix = match[1].removeprefix(family)
            allowed = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
            assert suffix in allowed.get(kinds[family], ("",)), line
            series = found.setdefault(match[1], {})
            assert (match[2] or "") not in series, line
            series[match[2] or ""] = float(match[3])
    return found


def families(text: str) -> set[str]:
    """The names of all families."""
    return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


def check_expression(expression: str, measured: set[str]) -> None:
    """PromQL asks for something, and only for what is measured."""
    names = set(re.findall(r"\b(?:gradmq|nv)_[a-z_]+", expression))
    assert names or "up{" in expression
    unknown = {n for n in names if not {n, re.sub(r"_(bucket|sum|count)$", "", n)} & measured}
    assert unknown == set()
    assert expression.count("(") == expression.count(")")


def check_dashboard(file: str, measured: set[str]) -> None:
    """Every panel draws something that is measured."""
    board = json.loads((OPERATIONS / file).read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(expressions) >= len(board["panels"]) > 5
    for expression in expressions:
        check_expression(expression, measured)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def alerts(group: str) -> list[dict[str, Any]]:
    """The rules of one group, which have all that a rule has, and no more."""
    found = yaml.safe_load((OPERATIONS / "prometheus-alerts.yml").read_text())
    (rules,) = [g["rules"] for g in found["groups"] if g["name"] == group]
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["annotations"]["summary"]
    return list(rules)
