"""The command line: ``gradmq run`` for everything at once, one command per role, ``status``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from gradmq import strict_json
from gradmq.config import Settings, all_keys, keys_of, resolve, seconds
from gradmq.errors import GradmqError, SettingsError

DEFAULT_PORT = 5550
#: A broker that has not answered by then is away: whoever asks knows it within five seconds.
STATUS_TIMEOUT_S = 3.0

#: What shells report of a program that SIGPIPE ended.
BROKEN_PIPE = 141

DEFAULT_BROKER = f"tcp://127.0.0.1:{DEFAULT_PORT}"

app = App(
    name="gradmq",
    help="Asynchronous training over message queues, with the model served live while it learns.",
    help_epilogue="`gradmq run --help-all` lists every setting.",
    version_flags=["--version"],
)

Config = Annotated[Path | None, Parameter(help="TOML file with settings.")]
Set = Annotated[
    list[str],
    Parameter(
        name="--set",
        help="Any setting, as KEY=VALUE; may be repeated.",
        negative="",
        consume_multiple=False,
        show_default=False,
    ),
]
Broker = Annotated[str, Parameter(help="Address of the broker.")]
State = Annotated[Path, Parameter(help="Folder for checkpoints and counters.")]
JobName = Annotated[str, Parameter(help="A built-in job (lm, fashion-mnist) or a Python file.")]
Bind = Annotated[str | None, Parameter(help="Address to listen on; default 127.0.0.1.")]
Advertise = Annotated[
    str | None, Parameter(help="Address told to others, not 0.0.0.0; default: --bind.")
]
Keys = Annotated[
    Path | None, Parameter(help="Keys folder, or this process's key file (`gradmq keys`).")
]
Insecure = Annotated[
    bool | None, Parameter(help="Listen beyond this host, though nothing is checked.", negative="")
]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class MetricsFlags:
    """Of the roles that have no HTTP but this."""

    metrics_port: Annotated[
        int | None, Parameter(help="Port of /metrics, for Prometheus; 0: any free one.")
    ] = None
    metrics_host: Annotated[
        str | None, Parameter(help="Address of /metrics to listen on; default 127.0.0.1.")
    ] = None
    metrics_token_file: Annotated[
        Path | None, Parameter(help="File (mode 0600) with a token that scrapers must bear.")
    ] = None

    def settings(self) -> dict[str, Any]:
        """As keywords of ``_settings``."""
        return {key.replace("_", "__", 1): value for key, value in asdict(self).items()}


NO_METRICS = MetricsFlags()


def _pairs(values: Sequence[str]) -> dict[str, str]:
    pairs = (value.partition("=") for value in values)
    out = {}
    for key, equals, value in pairs:
        if not equals:
            raise SettingsError(f"--set {key}: write it as KEY=VALUE")
        out[key] = value
    return out


def _settings(
    config: Path | None,
    more: Sequence[str],
    job_settings: Mapping[str, Any] = MappingProxyType({}),
    **flags: Any,
) -> Settings:
    dotted = {key.replace("__", "."): value for key, value in flags.items()}
    return resolve(job_settings, config, os.environ, {**dotted, **_pairs(more)})


@app.command
def run(
    job: Annotated[
        str,
        Parameter(
            help="A built-in job (lm, fashion-mnist) or a Python file; default: lm, or what the "
            "resumed run trains.",
            show_default=False,
        ),
    ] = "",
    *,
    for_: Annotated[
        str | None, Parameter("--for", help="Train for so long: 90s, 5m, 1.5h.")
    ] = None,
    updates: Annotated[int | None, Parameter(help="End after so many updates.")] = None,
    samples: Annotated[int | None, Parameter(help="End after so many applied samples.")] = None,
    until: Annotated[str | None, Parameter(help='End once this holds: "accuracy>=0.9".')] = None,
    patience: Annotated[
        int | None, Parameter(help="End after so many evaluations without improvement.")
    ] = None,
    workers: Annotated[int | None, Parameter(help="Worker processes; default 2.")] = None,
    shards: Annotated[int | None, Parameter(help="Parameter server processes; default 1.")] = None,
    lr: Annotated[float | None, Parameter(help="Learning rate; default: the job's.")] = None,
    data: Annotated[str | None, Parameter(help="Folder with the job's data.")] = None,
    name: Annotated[str | None, Parameter(help="Name of the run and its folder.")] = None,
    init: Annotated[
        Path | None, Parameter(help="Start from a .safetensors or .pth parameter file.")
    ] = None,
    resume: Annotated[Path | None, Parameter(help="Continue the run in this folder.")] = None,
    keys: Annotated[
        Path | None, Parameter(help="Keys folder; what is missing in it is made.")
    ] = None,
    config: Config = None,
    set_: Set = [],  # noqa: B006  (cyclopts reads the default, nobody writes to it)
) -> int:
    """Train a job on this machine and serve it while it learns."""
    from gradmq.run.run import run_job

    chosen = {
        "run.for": for_,
        "run.updates": updates,
        "run.samples": samples,
        "run.until": until,
        "run.patience": patience,
        "run.workers": workers,
        "run.shards": shards,
        "optimizer.lr": lr,
        "run.data": data,
        "run.name": name,
        "network.keys": keys,
    }
    return run_job(job, {**chosen, **_pairs(set_)}, config, init, resume)


@app.command
def serve(
    run: Annotated[Path, Parameter(help="Folder of a run, as in runs/lm-1.")],
    *,
    port: Annotated[
        int | None, Parameter(help="HTTP port; 0: any free one; default: the run's.")
    ] = None,
) -> int:
    """Serve the newest release of a finished run, until Ctrl-C."""
    from gradmq.run.run import serve_run

    return serve_run(run, port)


@app.command
def broker(
    *,
    name: Annotated[str, Parameter(help="Name of the run.")] = "run",
    shards: Annotated[int | None, Parameter(help="How many shards the run has; default 1.")] = None,
    port: Annotated[
        int | None, Parameter(help="Port to listen on; default 5550, or what --config says.")
    ] = None,
    bind: Bind = None,
    advertise: Advertise = None,
    keys: Keys = None,
    insecure: Insecure = None,
    metrics: MetricsFlags = NO_METRICS,
    state: State = Path("gradmq-state"),
    config: Config = None,
    set_: Set = [],  # noqa: B006
) -> int:
    """Hold the directory of one run: who is where, which release is newest."""
    from gradmq import link
    from gradmq.broker.node import BrokerNode, BrokerOptions
    from gradmq.process import StopFlag, run_role

    def main(stop: StopFlag) -> None:
        settings = _settings(
            config, set_, run__shards=shards, network__port=port, network__bind=bind,
            network__advertise=advertise, network__insecure=insecure, network__keys=keys,
            **metrics.settings(),
        )  # fmt: skip
        network = settings.network
        options = BrokerOptions(
            run=name,
            shards=settings.run.shards,
            state=state,
            bind=network.bind,
            port=DEFAULT_PORT if network.port is None else network.port,
            advertise=link.advertised(network.bind, network.advertise),
            insecure=network.insecure,
            release_every_s=settings.run.release_every,
            save_every_s=settings.run.save_every,
            settings=settings.told_to_members(),
            keys=network.keys,
            metrics=settings.metrics,
        )
        BrokerNode(options).run(stop)

    return run_role("broker", main)


@app.command
def ps(
    *,
    broker: Broker = DEFAULT_BROKER,
    shard: Annotated[int, Parameter(help="Which shard, from 0.")] = 0,
    port: Annotated[
        int, Parameter(help="First of three ports to listen on; 0: any free ones.")
    ] = 0,
    bind: Bind = None,
    advertise: Advertise = None,
    keys: Keys = None,
    insecure: Insecure = None,
    metrics: MetricsFlags = NO_METRICS,
    state: State = Path("gradmq-state"),
    restore_release: Annotated[
        int | None, Parameter(help="Start from this release; default: the newest on disk.")
    ] = None,
    config: Config = None,
    set_: Set = [],  # noqa: B006
) -> int:
    """Own one shard of the parameters: apply gradients, publish versions."""
    from gradmq import link
    from gradmq.process import StopFlag, run_role
    from gradmq.ps.node import PsNode, PsOptions

    def main(stop: StopFlag) -> None:
        settings = _settings(
            config, set_, network__bind=bind, network__advertise=advertise,
            network__insecure=insecure, network__keys=keys,
            **metrics.settings(),
        )  # fmt: skip
        network = settings.network
        options = PsOptions(
            broker=broker,
            shard=shard,
            state=state,
            bind=network.bind,
            port=port,
            advertise=link.advertised(network.bind, network.advertise),
            insecure=network.insecure,
            push_budget_bytes=settings.ps.push_budget_mb * 1_000_000,
            restore_release=restore_release,
            kept_checkpoints=settings.ps.keep_checkpoints,
            keys=network.keys,
            metrics=settings.metrics,
        )
        PsNode(options).run(stop)

    return run_role("ps", main)


@app.command
def worker(
    job: JobName,
    *,
    broker: Broker = DEFAULT_BROKER,
    name: Annotated[str, Parameter(help="Name of this worker; default: the broker's choice.")] = "",
    data: Annotated[str | None, Parameter(help="Folder with the job's data.")] = None,
    keys: Keys = None,
    insecure: Insecure = None,
    metrics: MetricsFlags = NO_METRICS,
    config: Config = None,
    set_: Set = [],  # noqa: B006
) -> int:
    """Compute gradients of a job and push them."""
    from gradmq.process import StopFlag, run_role

    def main(stop: StopFlag) -> None:
        from gradmq.jobs import load

        loaded = load(job)
        settings = _settings(
            config, set_, loaded.settings, run__data=data, network__keys=keys,
            network__insecure=insecure, **metrics.settings(),
        )  # fmt: skip
        from gradmq.worker.training import train

        train(
            loaded,
            broker,
            name,
            settings.worker.max_in_flight,
            settings.run.seed,
            settings.run.data,
            settings.run.join_timeout,
            settings.worker.step_timeout,
            settings.network.keys,
            stop,
            settings.metrics,
            settings.network.insecure,
        )

    return run_role("worker", main)


@app.command
def infer(
    job: JobName,
    *,
    broker: Broker = DEFAULT_BROKER,
    name: Annotated[str, Parameter(help="Name of this node; default: the broker's choice.")] = "",
    host: Annotated[str | None, Parameter(help="HTTP address; default 127.0.0.1.")] = None,
    port: Annotated[int | None, Parameter(help="HTTP port; 0: any free one.")] = None,
    token_file: Annotated[
        Path | None, Parameter(help="File (mode 0600) with a token that requests must bear.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        Parameter(
            help="Serve what is saved here, without a run: a run's folder, one of checkpoints, or "
            "a .safetensors or .pth file.",
        ),
    ] = None,
    max_age: Annotated[
        str | None, Parameter(help="Say not ready when the newest release is older: 10s.")
    ] = None,
    inplace: Annotated[
        bool | None,
        Parameter(
            help="Write each release over the last one: the memory of one model, none to go back "
            "to.",
            negative="",
        ),
    ] = None,
    keys: Keys = None,
    insecure: Insecure = None,
    config: Config = None,
    set_: Set = [],  # noqa: B006
) -> int:
    """Serve a job's releases over HTTP, the newest and the last few, with a page for a browser."""
    from gradmq.process import StopFlag, run_role

    def main(stop: StopFlag) -> None:
        from gradmq.jobs import load

        loaded = load(job)
        settings = _settings(
            config, set_, loaded.settings, infer__host=host, infer__port=port,
            infer__token_file=token_file, infer__max_age=max_age, infer__inplace=inplace,
            network__keys=keys, network__insecure=insecure,
        )  # fmt: skip
        from gradmq.infer import node
        from gradmq.infer.run_watch import RunWatch

        watch = RunWatch(loaded.higher_is_better) if checkpoint is None else None
        drop = settings.infer.max_score_drop
        if drop is not None and loaded.score is None:
            raise SettingsError(f"infer.max_score_drop is set, and job {loaded.name} has no score")
        if settings.infer.inplace and (drop is not None or settings.infer.return_to_stable):
            raise SettingsError(
                "infer.inplace leaves nothing to go back to: "
                "use it without infer.max_score_drop and infer.return_to_stable"
            )
        if checkpoint is None:
            source = node.releases_of_run(
                loaded,
                broker,
                name,
                settings.run.join_timeout,
                settings.network.keys,
                drop,
                watch,
                settings.infer.inplace,
            )
        else:
            from gradmq.run.saved import read_saved

            source = node.one_release(read_saved(loaded, checkpoint))
        node.serve(loaded, settings.infer, settings.network.insecure, source, stop.event, watch)

    return run_role("infer", main)


@app.command
def status(
    broker: Broker = DEFAULT_BROKER,
    *,
    keys: Keys = None,
    json_: Annotated[bool, Parameter("--json", help="Print JSON.", negative="")] = False,
) -> int:
    """Show who is in a run, how far it is, and who waits for whom."""
    from gradmq.observer import Observer

    with Observer(broker, _keys(keys)) as observer:
        found = observer.status(timeout=STATUS_TIMEOUT_S)
    if json_:
        print(strict_json.dumps(found))
    else:
        from gradmq.view.screen import print_status

        print_status(found)
    return 0


@app.command
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
    with Observer(broker, _keys(keys)) as observer:
        observer.stop_workers("gradmq stop")
        left = observer.wait_for_workers(limit_s)
        if left:
            print(f"still working after {limit_s:g} s: {', '.join(left)}", file=sys.stderr)
        print(f"saved release {observer.make_release(True, limit_s)}")
    return 1 if left else 0


@app.command
def readmit(
    worker: Annotated[str, Parameter(help="Name of the worker.")],
    *,
    broker: Broker = DEFAULT_BROKER,
    keys: Keys = None,
) -> int:
    """Let a worker out of quarantine: its pushes are looked at again."""
    from gradmq.observer import Observer

    with Observer(broker, _keys(keys)) as observer:
        observer.readmit(worker)
    print(f"{worker} is let back")
    return 0


app.command(
    "gradmq.history.cli:app",
    name="history",
    help="What moved a run's weights, the same again without a worker, and back to a release.",
)

# Not imported before it is asked for: a benchmark is no part of what runs.
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


def _keys(flag: Path | None) -> Path | None:
    """Of who asks from outside: as given, or from the environment."""
    return keys_of(flag, os.environ)


def _duration(text: str) -> float:
    try:
        return float(str(seconds(text)))
    except ValueError as error:
        raise SettingsError(f"--timeout: {error}") from None


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
