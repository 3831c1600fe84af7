"""What the pages say is there: links, paths, commands, settings, and examples that run.

``python tests/rules/test_docs.py`` writes examples/regression.py into the README anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from cyclopts import App

from gradmq.cli import app
from gradmq.config import all_keys

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
EXAMPLE = ROOT / "examples" / "regression.py"
PAGES = [README, *ROOT.glob("C*.md"), *sorted((ROOT / "docs").rglob("*.md"))]

BEGIN = "<!-- examples/regression.py, written by tests/rules/test_docs.py -->\n"
END = "<!-- end -->\n"

#: What a path in backticks begins with, if it is one of this repository.
TOP = "bench|broker|docs|examples|infer|ps|src|tests|worker"

#: Commands that have commands.
GROUPS = "bench|history|keys|serving"

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_links_lead_to_a_page_that_is_there(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@every_page
def test_links_within_a_page_lead_to_a_heading(page: Path) -> None:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    targets = re.findall(r"\]\(#([^)]+)\)", page.read_text())
    assert [target for target in targets if target not in anchors] == []


@every_page
def test_paths_and_the_tests_that_are_named_are_there(page: Path) -> None:
    missing = []
    for path, test in re.findall(rf"`((?:{TOP})/[\w./-]*)(?:::(\w+))?`", page.read_text()):
        file = ROOT / path
        if not file.exists() or (test and f"def {test}(" not in file.read_text()):
            missing.append(f"{path}::{test}" if test else path)
    assert missing == []


@every_page
def test_commands_and_their_flags_exist(page: Path) -> None:
    wrong = [
        f"gradmq {command} {flag}"
        for command, rest in commands_in(page.read_text())
        for flag in [None, *re.findall(r"(?<=\s)--[a-z][a-z-]*", rest)]
        if command not in flags_by_command() or flag not in flags_by_command()[command]
    ]
    assert wrong == []


@every_page
def test_settings_that_are_named_exist(page: Path) -> None:
    known = {key for key, *_ in all_keys()}
    sections = {key.partition(".")[0] for key in known}
    text = page.read_text()
    set_to = re.findall(r"(?:--set |`|\")([a-z]+\.[a-z_]+)(?==|\":)", text)
    named = re.findall(r"`([a-z]+\.[a-z_]+)`", text)
    # `run.md` is a file; `worker.drain` and `optimizer.last_step` belong to objects of Python.
    named = [n for n in named if not re.match(r"(worker|optimizer)\.|.*\.(md|py|toml|json)", n)]
    keys = [key for key in [*set_to, *named] if key.partition(".")[0] in sections]
    assert [key for key in keys if key not in known] == []


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"(?:`|^ {0,4})make ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    assert named - targets == set()


def test_every_decision_has_its_four_parts_on_one_page() -> None:
    parts = ["Context", "Decision", "Cost", "Revisit when"]
    for number, page in enumerate(sorted((ROOT / "docs" / "adr").glob("*.md")), start=1):
        text = page.read_text()
        assert page.name.startswith(f"{number:04}-")
        assert text.startswith(f"# {number}. ")
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == parts
        assert len(text.splitlines()) <= 50, page.name


def test_the_readme_shows_the_example_as_it_is() -> None:
    shown = README.read_text()
    assert shown == with_example(shown), "write it anew: python tests/rules/test_docs.py"


def test_the_readmes_program_is_twelve_lines_and_shows_what_it_says() -> None:
    program = readme_program()
    assert len(program.splitlines()) == 12
    assert program.startswith("import torch\nimport gradmq\n")


@pytest.mark.e2e
@pytest.mark.torch
def test_the_readmes_program_runs(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADMQ_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", readme_program()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    loss, rest = done.stdout.split(maxsplit=1)
    assert float(loss) < 1e-3
    assert rest.startswith("((1, ")
    assert list(tmp_path.iterdir()) == []


def readme_program() -> str:
    program: str
    (program,) = re.findall(r"^```python\n(import torch\nimport gradmq\n.*?)^```", *_readme())
    return program


def _readme() -> tuple[str, re.RegexFlag]:
    return README.read_text(), re.MULTILINE | re.DOTALL


def with_example(page: str) -> str:
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{README} has lost its marks"
    return f"{before}{begin}```python\n{EXAMPLE.read_text()}```\n{end}{after}"


def commands_in(text: str) -> list[tuple[str, str]]:
    """(command, the rest) of every ``gradmq COMMAND …`` in backticks or at the start of a line."""
    quoted = re.findall(rf"`gradmq ((?:(?:{GROUPS}) )?[a-z][a-z-]*)((?: [^`]*)?)`", text)
    lines = re.findall(
        r"^(?: {4}|\$ | {4}\$ )?(?:ip netns exec \w+ )?"
        rf"gradmq ((?:(?:{GROUPS}) )?[a-z]+)((?: .*)?)$",
        text,
        re.MULTILINE,
    )
    return [(command, " " + rest) for command, rest in [*quoted, *lines]]


@cache
def flags_by_command() -> dict[str, set[str | None]]:
    """The commands of gradmq, each with its flags; one of a group has two words."""
    found: dict[str, set[str | None]] = {}
    for name, command in commands_of(app):
        flags: set[str | None] = {None, "--help", "--help-all"}
        if command.default_command:
            arguments = command.assemble_argument_collection(parse_docstring=True)
            flags |= {flag for argument in arguments for flag in argument.names}
        found[name] = flags
    return found


def commands_of(group: App, prefix: str = "") -> Iterator[tuple[str, App]]:
    for name in group:
        if not name.startswith("-"):
            yield prefix + name, group[name]
            yield from commands_of(group[name], f"{prefix}{name} ")


if __name__ == "__main__":
    README.write_text(with_example(README.read_text()))
