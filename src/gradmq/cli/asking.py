"""What is asked of a run from outside: ``gradmq status``, ``stop`` and ``readmit``."""

from __future__ import annotations

import os
import sys
from typing import Annotated

from cyclopts import Parameter

from gradmq import strict_json
from gradmq.cli.options import DEFAULT_BROKER, Broker, Keys
from gradmq.config import keys_of, seconds
from gradmq.errors import SettingsError

#: A broker that has not answered by then is away: whoever asks knows it within five seconds.
STATUS_TIMEOUT_S = 3.0


def status(
    broker: Broker = DEFAULT_BROKER,
    *,
    keys: Keys = None,
    json_: Annotated[bool, Parameter("--json", help="Print JSON.", negative="")] = False,
) -> int:
    """Show who is in a run, how far it is, and who waits for whom."""
    from gradmq.observer import Observer

    with Observer(broker, keys_of(keys, os.environ)) as observer:
        found = observer.status(timeout=STATUS_TIMEOUT_S)
    if json_:
        print(strict_json.dumps(found))
    else:
        from gradmq.view.screen import print_status

        print_status(found)
    return 0


def stop(
    broker: Broker = DEFAULT_BROKER,
    *,
    timeout: Annotated[
        str, Parameter(help="For workers to finish, and for shards to save.")
    ] = "60s",
    keys: Keys = None,
) -> int:
    """Let all workers of a run finish, then have its last release written to disk."""
    from gradmq.observer import Observer

    limit_s = _duration(timeout)
    with Observer(broker, keys_of(keys, os.environ)) as observer:
        observer.stop_workers("gradmq stop")
        left = observer.wait_for_workers(limit_s)
        if left:
            print(f"still working after {limit_s:g} s: {', '.join(left)}", file=sys.stderr)
        print(f"saved release {observer.make_release(True, limit_s)}")
    return 1 if left else 0


def readmit(
    worker: Annotated[str, Parameter(help="Name of the worker.")],
    *,
    broker: Broker = DEFAULT_BROKER,
    keys: Keys = None,
) -> int:
    """Let a worker out of quarantine: its pushes are looked at again."""
    from gradmq.observer import Observer

    with Observer(broker, keys_of(keys, os.environ)) as observer:
        observer.readmit(worker)
    print(f"{worker} is let back")
    return 0


def _duration(text: str) -> float:
    try:
        return float(str(seconds(text)))
    except ValueError as error:
        raise SettingsError(f"--timeout: {error}") from None
