"""``python -m conformance``: ask real nodes with the public clients, a line for each.

    python -m conformance [CLIENT ...]

Ends with status 1 if one of them failed. One that cannot be installed here is said to be so; the
variable PERF_ANALYZER names a program to use instead of the one from PyPI.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

from conformance.clients import CLIENTS, SETTINGS, try_client, version
from conformance.environments import NotInstalled
from conformance.nodes import running_node

#: The longest that one program of a client may take; a fuzzer is told to end earlier.
RUN_S = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(CLIENTS))
    names = parser.parse_args().clients or list(CLIENTS)
    unknown = [name for name in names if name not in CLIENTS]
    if unknown:
        parser.error(f"no client {unknown[0]}: there are {', '.join(CLIENTS)}")
    jobs = dict.fromkeys(job for name in names for job in CLIENTS[name].jobs)
    with (
        tempfile.TemporaryDirectory(prefix="gradmq-conformance-") as folder,
        contextlib.ExitStack() as nodes,
    ):
        urls = {job: nodes.enter_context(running_node(job, Path(folder), SETTINGS)) for job in jobs}
        good = [_line(name, urls) for name in names]
    return 0 if all(good) else 1


def _line(name: str, urls: dict[str, str]) -> bool:
    began_s = time.monotonic()
    try:
        outcome = try_client(name, urls, None, RUN_S)
    except NotInstalled as reason:
        print(f"{name:<14} {version(name):<9} not run  {reason}", flush=True)
        return True
    word = "passed" if outcome.passed else "FAILED"
    took = f"{time.monotonic() - began_s:.0f} s"
    print(f"{name:<14} {version(name):<9} {word}   {outcome.text} ({took})", flush=True)
    return outcome.passed


if __name__ == "__main__":
    sys.exit(main())
