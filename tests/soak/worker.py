"""A worker that pushes for as long as it is let: zeros, without any bookkeeping of its own.

python -m soak.worker BROKER NAME SHARDS PUSHES COPIES
"""

from __future__ import annotations

import logging
import sys
import time

import gradmq
from chaos.tracer import Tracer
from gradmq.process import StopFlag

log = logging.getLogger(__name__)

PACE_S = 0.005
SLICE_S = 5.0


def main(words: list[str]) -> None:
    broker, name = words[:2]
    logging.basicConfig(format="%(asctime)s worker %(message)s", level=logging.INFO)
    stop = StopFlag().install()
    gradient = Tracer(*map(int, words[2:])).zeros()
    arrays = {tensor: values.copy() for tensor, values in gradient.items()}
    with gradmq.Worker(arrays, broker, name, timeout=60.0) as worker:
        while not worker.stopping and not stop():
            try:
                worker.push(gradient, samples=1, timeout=SLICE_S)
                worker.catch_up(timeout=SLICE_S)
            except gradmq.ShardAway as error:
                log.warning("%s", error)
            time.sleep(PACE_S)


if __name__ == "__main__":
    main(sys.argv[1:])
