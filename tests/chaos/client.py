"""An HTTP client of the inference node: writes down which release answered, and what was in it.

    python -m chaos.client URL HISTORY SHARDS

A node that is away is asked again; one that answers must answer well, or say 503 while it has no
release yet.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from chaos.history import History
from chaos.served import REQUEST
from gradmq.process import StopFlag

ASK_EVERY_S = 0.1
TIMEOUT_S = 5.0


def main(words: list[str]) -> None:
    url, path, shards = words[0], words[1], int(words[2])
    stop = StopFlag().install()
    with History(Path(path)) as history:
        while not stop():
            ask(url, history, shards)
            stop.event.wait(ASK_EVERY_S)


def ask(url: str, history: History, shards: int) -> None:
    request = urllib.request.Request(f"{url}/v2/models/tracer/infer", json.dumps(REQUEST).encode())
    began_at = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            body = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code != 503:
            history.note("answered", status=error.code, text=error.read().decode())
        return
    except (OSError, ValueError, http.client.HTTPException) as error:
        history.note("away", text=f"{type(error).__name__}: {error}", since=began_at)
        return
    told = body["parameters"]
    found = body["outputs"][0]["data"]
    history.note(
        "saw",
        versions=[list(map(int, v.split(":"))) for v in told["gradmq_versions"].split(",")],
        release=int(told["gradmq_release"]),
        totals=found[:shards],
        most=found[shards : 2 * shards],
        torn=[bool(torn) for torn in found[2 * shards :]],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
