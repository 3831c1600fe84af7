"""JSON that any reader takes: a number that is none (a loss of a diverged run) becomes null."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(value: Any) -> str:
    """One line of JSON."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_finite(entry) for entry in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
