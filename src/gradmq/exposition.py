"""Prometheus' text format, version 0.0.4.

Written here and not by prometheus_client, which ends the name of every counter in ``_total``:
Triton's do not, and dashboards made for them look for their names.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[str, Mapping[str, str], float]
"""What follows the family's name, the labels, the value."""


@dataclass(frozen=True, slots=True)
class Family:
    """All samples of one name."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "summary"]
    help: str
    samples: Sequence[Sample]


@dataclass(slots=True)
class Histogram:
    """How many values were at most each bound, and their sum."""

    bounds: Sequence[float]
    """Ascending; what is above the last one is counted too."""
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count one value, or so many of them."""
        self.counts[bisect.bisect_left(self.bounds, value)] += times
        self.total += value * times

    def samples(self, labels: Mapping[str, str]) -> Iterable[Sample]:
        """Of a family of kind histogram."""
        names = [*map(_number, self.bounds), "+Inf"]
        up_to = list(itertools.accumulate(self.counts))
        for bound, count in zip(names, up_to, strict=True):
            yield "_bucket", {**labels, "le": bound}, count
        yield "_sum", labels, self.total
        yield "_count", labels, up_to[-1]


@dataclass(slots=True)
class Stage:
    """How often something was done, and how long that took together."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """``count`` times, each of so many seconds."""
        self.count += count
        self.seconds += seconds * count

    def samples(self, labels: Mapping[str, str]) -> Iterable[Sample]:
        """Of a family of kind summary."""
        yield "_sum", labels, self.seconds
        yield "_count", labels, self.count


def one(
    name: str, kind: Literal["counter", "gauge"], text: str, value: float, /, **labels: str
) -> Family:
    """A family with one sample."""
    return Family(name, kind, text, [("", labels, value)])


def histogram(name: str, text: str, of: Histogram, labels: Mapping[str, str]) -> Family:
    """A family with one histogram, as it is now."""
    return Family(name, "histogram", text, list(of.samples(labels)))


def summary(name: str, text: str, of: Stage, labels: Mapping[str, str]) -> Family:
    """A family with one sum and count, as they are now."""
    return Family(name, "summary", text, list(of.samples(labels)))


def render(families: Iterable[Family]) -> bytes:
    """The families as a scraper reads them."""
    lines = []
    for family in families:
        lines.append(f"# HELP {family.name} {_escaped(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for suffix, labels, value in family.samples:
            pairs = ",".join(f'{name}="{_label(text)}"' for name, text in labels.items())
            braces = f"{{{pairs}}}" if pairs else ""
            lines.append(f"{family.name}{suffix}{braces} {_number(value)}")
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _label(text: str) -> str:
    return _escaped(text).replace('"', r"\"")
