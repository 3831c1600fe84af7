"""docs/settings.md lists every setting as the code has it; run this file to write the list anew."""

from __future__ import annotations

import re
from pathlib import Path

from gradmq.config import all_keys

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
BEGIN = "<!-- written by tests/rules/test_settings_doc.py -->\n"
END = "<!-- end -->\n"

#: How a description ends if its value has a unit.
UNITS = ("seconds", "updates", "MB")


def table() -> str:
    """The settings as the page shows them."""
    lines = ["| setting | default | unit | variable | what |", "|---|---|---|---|---|"]
    for key, variable, default, description in all_keys():
        what, _, unit = description.rpartition("; ")
        if unit not in UNITS:
            what, unit = description, "–"
        shown = f"`{default}`" if default else "–"
        lines.append(f"| `{key}` | {shown} | {unit} | `{variable}` | {what} |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{PAGE} has lost its marks"
    return before + begin + table() + end + after


def test_the_page_lists_the_settings_of_the_code() -> None:
    page = PAGE.read_text()
    assert page == with_table(page), "write it anew: python tests/rules/test_settings_doc.py"


def test_every_setting_says_what_it_is() -> None:
    assert [key for key, _, _, description in all_keys() if not description] == []


def test_a_duration_says_that_it_is_in_seconds() -> None:
    rows = re.findall(r"^\| `(\S+)` \| `?([^|`]+)`? \| (\S+) \|", table(), re.MULTILINE)
    units = {key: unit for key, _, unit in rows}
    timed = ("run.for", "run.evaluate_every", "run.release_every", "run.save_every",
             "run.join_timeout", "worker.step_timeout")  # fmt: skip
    assert {units[key] for key in timed} == {"seconds"}


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
