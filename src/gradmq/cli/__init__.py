"""The command line: ``gradmq run`` for everything at once, one command per role, ``status``.

A command imports what it needs when it runs: ``--help`` waits for no numpy and no torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from gradmq.cli import asking, broker, infer, ps, run, worker
from gradmq.config import all_keys
from gradmq.errors import GradmqError

#: What shells report of a program that SIGPIPE ended.
BROKEN_PIPE = 141

app = App(
    name="gradmq",
    help="Asynchronous training over message queues, with the model served live while it learns.",
    help_epilogue="`gradmq run --help-all` lists every setting.",
    version_flags=["--version"],
)

for command in (
    run.run,
    run.serve,
    broker.broker,
    ps.ps,
    worker.worker,
    infer.infer,
    asking.status,
    asking.stop,
    asking.readmit,
):
    app.command(command)

# These are imported when they are asked for: a benchmark is no part of what runs.
app.command(
    "gradmq.history.cli:app",
    name="history",
    help="What moved a run's weights, the same again without a worker, and back to a release.",
)
app.command(
    "gradmq.bench.cli:app",
    name="bench",
    help="Measure gradmq on this machine, beside what the machine can do.",
)
app.command(
    "gradmq.infer.cli:app",
    name="serving",
    help="See and choose which releases a running inference node serves.",
)
app.command(
    "gradmq.security.cli:app",
    name="keys",
    help="Make, list and revoke the keys of a run's members.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status; what went wrong is one line on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words)
        sys.stdout.flush()  # here, where a reader that has left can still be noticed
    except BrokenPipeError:
        # Who reads has enough, as `head` has. Python would flush once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(BROKEN_PIPE) from None
    except CycloptsError as error:
        text = " ".join(str(error).split())
        command = f"{words[0]} " if words and words[0] in app else ""
        print(f"gradmq: {text} (see gradmq {command}--help)", file=sys.stderr)
        raise SystemExit(2) from None
    except GradmqError as error:
        print(f"gradmq: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(status if isinstance(status, int) else 0)


def _run(words: list[str]) -> object:
    if "--help-all" in words:
        _print_all_settings()
        return 0
    return app(words, exit_on_error=False, print_error=False, result_action="return_value")


def _print_all_settings() -> None:
    app(["run", "--help"], result_action="return_value")
    print("\nEvery setting: in TOML, as --set KEY=VALUE, or in the environment.\n")
    for key, variable, default, description in all_keys():
        print(f"{key}  (default {default or 'none'}; {variable})\n    {description}")
