"""Fills the cache with Fashion-MNIST, without root: ``python -m gradmq.jobs.fetch``.

It takes Debian's package apart instead of installing it. The exit status is 0 when the data is
there at the end, else 1 with one line that says what to do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gradmq.errors import JobError
from gradmq.jobs import fashion_data

PACKAGE = "dataset-fashion-mnist"
#: apt downloads 31 MB, and where this machine has no package lists, those first.
_COMMAND_TIMEOUT_S = 300


def main() -> int:
    """Prints one line, where the data is or why not; returns the exit status."""
    try:
        print(fetch())
    except (JobError, OSError) as error:
        print(f"gradmq: {error}", file=sys.stderr)
        return 1
    return 0


def fetch() -> str:
    """Fills the cache unless the data is there already, and says in one line where it is.

    Raises ``JobError`` where it cannot.
    """
    cache = fashion_data.cache_folder()
    for folder in (fashion_data.SYSTEM_FOLDER, cache):
        if fashion_data.is_complete(folder):
            return f"Fashion-MNIST is already there: {folder}"
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise JobError(
                f"{tool} is not on this machine, so Fashion-MNIST must come from elsewhere: "
                f"put its four .gz files into {cache}, or give their folder with --data DIR"
            )
    cache.parent.mkdir(parents=True, exist_ok=True)
    # Beside the cache, hence on its disk: each file then appears there whole, by one rename.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache.parent) as scratch:
        unpacked = _unpacked_package(Path(scratch))
        for name in fashion_data.FILES:
            fashion_data.read_idx(unpacked / name)
        cache.mkdir(exist_ok=True)
        for name in fashion_data.FILES:
            os.replace(unpacked / name, cache / name)
    return f"Fashion-MNIST is now in {cache}"


def _unpacked_package(scratch: Path) -> Path:
    """Downloads and unpacks the package below ``scratch``; returns the folder of its data files."""
    package = _downloaded_package(scratch)
    failure = _run(["dpkg-deb", "-x", str(package), str(scratch)], scratch)
    if failure:
        raise JobError(f"{package.name} cannot be unpacked ({failure}): run `make data` again")
    return scratch / fashion_data.SYSTEM_FOLDER.relative_to("/")


def _downloaded_package(scratch: Path) -> Path:
    # As root, apt would become its own user, who cannot write here.
    apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=root"]
    failure = _run([*apt, "download", PACKAGE], scratch)
    if failure:
        # Containers often have no package lists, and only root may update the system's.
        (scratch / "lists" / "partial").mkdir(parents=True)
        apt += ["-o", f"Dir::State::Lists={scratch / 'lists'}", "-o", f"Dir::Cache={scratch}"]
        failure = _run([*apt, "-o", "APT::Update::Error-Mode=any", "update"], scratch)
        failure = failure or _run([*apt, "download", PACKAGE], scratch)
    packages = list(scratch.glob(f"{PACKAGE}_*.deb"))
    if failure or not packages:
        raise JobError(
            f"apt-get could not download {PACKAGE} ({failure or 'no file came'}): try again when "
            "apt works, or give a folder with Fashion-MNIST's four .gz files with --data DIR"
        )
    return packages[0]


def _run(command: list[str], folder: Path) -> str:
    """Runs to the end; returns "" when it went well, else the last line it complained with."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_COMMAND_TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return said[-1] if said else f"exit status {done.returncode}"


if __name__ == "__main__":
    sys.exit(main())
