"""The role folders stand at the top of the repository and are one package all the same."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

LINKED = ["bench", "broker", "infer", "ps", "worker"]

#: All that setuptools reads; the rest of the repository (.venv, runs, .git) is not copied.
BUILT_FROM = ["pyproject.toml", "README.md", "LICENSE", "src", *LINKED]

BUILD = """
from setuptools import build_meta
build_meta.build_wheel("built")
build_meta.build_sdist("built")
"""


@pytest.mark.parametrize("name", LINKED)
def test_the_link_in_the_package_leads_to_the_top_level_folder(name, root):
    link = root / "src" / "gradmq" / name
    assert link.is_symlink()
    assert link.readlink().as_posix() == f"../../{name}", (
        "relative, so that a clone may lie anywhere"
    )
    assert link.resolve() == root / name
    assert (root / name / "__init__.py").is_file()


@pytest.fixture(scope="module")
def built(root, tmp_path_factory):
    """A folder with the wheel and the sdist of this tree, made without a network."""
    copy = tmp_path_factory.mktemp("tree")
    for name in BUILT_FROM:
        if (root / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(root / name, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(root / name, copy / name)
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "built"


def test_the_wheel_holds_every_file_of_the_package_under_gradmq(built, root):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        unlike = [name for name in held if archive.read(name) != (root / "src" / name).read_bytes()]
    assert held == files_of_the_package(root)
    assert unlike == []


def test_the_sdist_holds_real_files_where_the_links_are(built, root):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {within_sdist(member.name): member for member in archive.getmembers()}
    missing = [
        name
        for name in files_of_the_package(root)
        if f"src/{name}" not in members or not members[f"src/{name}"].isfile()
    ]
    assert missing == [], missing
    assert not [name for name, member in members.items() if member.issym() or member.islnk()]


def test_the_version_is_written_in_pyproject_and_nowhere_in_the_code(root, package):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    copies = [
        source.at(node.lineno)
        for source in package.values()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and node.value == project["version"]
    ]
    assert copies == [], "importlib.metadata.version('gradmq') knows it"


def files_of_the_package(root):
    """Code and data alike; what is missing in the wheel wants a line under package-data."""
    return {
        Path(folder, name).relative_to(root / "src").as_posix()
        for folder, _, names in os.walk(root / "src" / "gradmq", followlinks=True)
        for name in names
        if "__pycache__" not in folder
    }


def within_sdist(name):
    return PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix()
