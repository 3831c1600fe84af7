"""A follower of the tracer model: writes down every release that it is given.

python -m chaos.follower BROKER NAME HISTORY SHARDS PUSHES COPIES
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import gradmq
from chaos.history import History
from chaos.tracer import Tracer
from gradmq.process import StopFlag


def main(words: list[str]) -> None:
    broker, name, path = words[:3]
    logging.basicConfig(format="%(asctime)s follower %(message)s", level=logging.INFO)
    stop = StopFlag().install()
    tracer = Tracer(*map(int, words[3:]))
    arrays = tracer.zeros()
    with (
        History(Path(path)) as history,
        gradmq.Follower(arrays, broker, name, timeout=60.0) as follower,
    ):
        number = 0
        while not stop():
            release = follower.update(timeout=0.25)
            if release.number != number:
                number = release.number
                history.saw(release.versions, tracer.read(arrays), release=number)


if __name__ == "__main__":
    main(sys.argv[1:])
