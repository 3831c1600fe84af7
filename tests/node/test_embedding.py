"""A Worker inside other people's programs: their loops, their processes, their accidents."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

import gradmq

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

LR, MOMENTUM = 0.1, 0.5


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, generator=generator), torch.randn(8, 3, generator=generator)


def backward(model: nn.Module, seed: int = 0) -> torch.Tensor:
    inputs, targets = batch(seed)
    loss = nn.functional.mse_loss(model(inputs), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


@pytest.fixture(scope="module")
def cluster() -> Iterator[gradmq.LocalCluster]:
    with gradmq.LocalCluster(small(), optimizer=gradmq.SGD(LR, MOMENTUM)) as cluster:
        yield cluster


@pytest.fixture
def stopped_shard(cluster: gradmq.LocalCluster) -> Iterator[Callable[[], None]]:
    """Makes the shard go on; it is stopped when the test calls for it, at the latest at its end."""
    (pid,) = cluster.pids("ps")
    yield lambda: os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
    )


def row_of(cluster: gradmq.LocalCluster, name: str) -> dict[str, Any]:
    return next(row for row in cluster.status()["workers"] if row["name"] == name)


# -- the optimizer in loops written for torch ------------------------------------------------------


def test_clipping_accumulation_and_kept_zero_gradients_train_as_torch_alone_does() -> None:
    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        for number in range(30):
            for part in range(2):
                backward(model, 2 * number + part)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
            assert len(norms) == 4, "gradients stay until zero_grad"
            optimizer.zero_grad(set_to_none=number % 2 == 0)
        return model.state_dict()

    alone = small()
    expected = train(alone, torch.optim.SGD(alone.parameters(), LR, MOMENTUM))
    model = small()
    with (
        gradmq.LocalCluster(model, 2, gradmq.SGD(LR, MOMENTUM)) as cluster,
        gradmq.Worker(model, cluster.address, max_in_flight=1) as worker,
    ):
        state = train(model, worker.optimizer())
        assert [version for _, version in cluster.versions()] == [30, 30]
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


def test_all_parameters_are_in_the_models_order_and_frozen_ones_can_be_trained_later(
    cluster: gradmq.LocalCluster,
) -> None:
    model = small()
    model.get_submodule("0").requires_grad_(False)
    with gradmq.Worker(model, cluster.address, max_in_flight=1) as worker:
        optimizer = worker.optimizer()
        (group,) = optimizer.param_groups
        assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
        before = model.get_parameter("0.weight").clone()
        backward(model)
        optimizer.step()
        assert torch.equal(model.get_parameter("0.weight"), before)
        model.requires_grad_(True)
        backward(model)
        optimizer.step()
        assert not torch.equal(model.get_parameter("0.weight"), before)
        with pytest.raises(gradmq.JobError, match="one group"):
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def test_schedulers_run_and_the_servers_settings_stay(
    cluster: gradmq.LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address, max_in_flight=1) as worker:
        optimizer = worker.optimizer()
        assert optimizer.param_groups[0]["lr"] == LR
        assert optimizer.param_groups[0]["momentum"] == MOMENTUM
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e9, total_steps=5)
        for _ in range(4):
            backward(model)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        assert all(p.abs().max() < 100 for p in model.parameters()), "1e9 was not applied"
    said = [record.getMessage() for record in caplog.records if "server's stays" in record.message]
    assert len(said) == 2
    assert any("lr was set to" in text and "stays 0.1" in text for text in said)


def test_a_checkpoint_that_is_loaded_does_not_stay_in_the_model(
    cluster: gradmq.LocalCluster,
) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address) as worker:
        optimizer = worker.optimizer()
        saved = optimizer.state_dict()
        expected = worker.parameters()["0.weight"]
        nn.init.ones_(model.get_parameter("0.weight"))
        optimizer.load_state_dict(saved)
        assert model.get_parameter("0.weight").tolist() == expected.tolist()
        nn.init.ones_(model.get_parameter("0.weight"))
        worker.pull()
        assert model.get_parameter("0.weight").tolist() == expected.tolist()


def test_a_model_that_holds_its_worker_can_be_copied_and_no_worker_be_pickled(
    cluster: gradmq.LocalCluster,
) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address) as worker:
        object.__setattr__(model, "worker", worker)
        average = AveragedModel(model)
        assert average.module.__dict__["worker"] is worker
        for unique in (worker, worker.optimizer()):
            with pytest.raises(gradmq.JobError, match="pickled"):
                pickle.dumps(unique)


def test_figures_reach_the_status_and_the_last_loss_stays(cluster: gradmq.LocalCluster) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address, name="reporting", max_in_flight=1) as worker:
        optimizer = worker.optimizer(samples_per_step=8)
        optimizer.step(lambda: backward(model))
        optimizer.report(loss=0.25, samples=3)
        optimizer.step()
        optimizer.step()
        assert optimizer.last_step is not None and optimizer.last_step.seq == 3
        row = row_of(cluster, "reporting")
        while row["samples"] != 8 + 3 + 8 or row["seq"] != 3:  # the test's time limit ends this
            row = row_of(cluster, "reporting")
        assert row["loss"] == 0.25
        assert row["samples_per_s"] > 0 and row["share"] > 0


def test_a_parameter_that_was_replaced_is_named_and_a_converted_model_trains_on(
    cluster: gradmq.LocalCluster,
) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address, max_in_flight=1) as worker:
        optimizer = worker.optimizer()
        model.to(torch.bfloat16)
        before = model.get_parameter("2.weight").clone()
        model(batch(0)[0].bfloat16()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not torch.equal(model.get_parameter("2.weight"), before)
        model.set_submodule("2", nn.Linear(5, 3, dtype=torch.bfloat16))
        model(batch(0)[0].bfloat16()).sum().backward()
        with pytest.raises(gradmq.LayoutMismatch, match=r"'2\.weight' was replaced"):
            optimizer.step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_model_that_is_moved_to_a_gpu_after_the_worker_was_made_trains_on_there(
    cluster: gradmq.LocalCluster,
) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address, max_in_flight=1) as worker:
        optimizer = worker.optimizer()
        model.cuda()
        before = model.get_parameter("2.weight").clone()
        inputs, targets = (tensor.cuda() for tensor in batch(0))
        nn.functional.mse_loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert model.get_parameter("2.weight").is_cuda
        assert not torch.equal(model.get_parameter("2.weight"), before)


# -- waits that end otherwise than hoped -----------------------------------------------------------


def test_a_step_that_timed_out_is_under_way_and_not_pushed_again(
    cluster: gradmq.LocalCluster, stopped_shard: Callable[[], None]
) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address, max_in_flight=1) as worker:
        optimizer = worker.optimizer(timeout=0.2)
        before = cluster.versions()[0][1]
        stopped_shard()
        backward(model)
        for _ in range(2):
            with pytest.raises(gradmq.ShardAway, match="shard 0"):
                optimizer.step()
            assert all(p.grad is None for p in model.parameters())
        (pid,) = cluster.pids("ps")
        os.kill(pid, signal.SIGCONT)
        worker.catch_up()
        assert cluster.versions()[0][1] == before + 1


def test_ctrl_c_inside_a_step_loses_nothing(
    cluster: gradmq.LocalCluster, stopped_shard: Callable[[], None]
) -> None:
    # Where the tests run in the background of a shell, it has had the signal ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    model = small()
    with gradmq.Worker(model, cluster.address, max_in_flight=1) as worker:
        before = cluster.versions()[0][1]
        stopped_shard()
        backward(model)
        ctrl_c = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        ctrl_c.start()
        with pytest.raises(KeyboardInterrupt):
            worker.step(timeout=50)
        ctrl_c.join()
        (pid,) = cluster.pids("ps")
        os.kill(pid, signal.SIGCONT)
        worker.catch_up()
        backward(model)
        worker.step()
        assert cluster.versions()[0][1] == before + 2
    signal.signal(signal.SIGINT, handler)


# -- notebooks -------------------------------------------------------------------------------------


def test_a_cell_can_fail_and_be_run_again(cluster: gradmq.LocalCluster) -> None:
    model = small()
    sessions = []
    for attempt in range(3):
        try:
            with gradmq.Worker(model, cluster.address, name="notebook") as worker:
                sessions.append(worker.session)
                backward(model)
                worker.step()
                assert attempt == 2, "the cell fails twice"
        except AssertionError:
            continue
    assert sessions == sorted(set(sessions))
    with pytest.raises(gradmq.Closed, match="make a new one"):
        worker.open()


@pytest.mark.parametrize("kind", [gradmq.Worker, gradmq.Follower])
def test_what_is_dropped_without_close_leaves_the_run(
    cluster: gradmq.LocalCluster, kind: type[gradmq.Worker | gradmq.Follower]
) -> None:
    before = set(threading.enumerate())
    member = kind(small(), cluster.address).open()
    (thread,) = set(threading.enumerate()) - before
    with pytest.raises(gradmq.Closed, match="open already"):
        member.open()
    del member
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


def test_a_name_opened_a_second_time_ends_the_first_with_an_error_that_says_so(
    cluster: gradmq.LocalCluster,
) -> None:
    first, second = small(), small()

    def train_on(worker: gradmq.Worker) -> None:
        while True:  # the news travels; the test's time limit ends this
            backward(first)
            worker.step()

    with (
        gradmq.Worker(first, cluster.address, name="twice") as old,
        gradmq.Worker(second, cluster.address, name="twice") as new,
    ):
        with pytest.raises(gradmq.Fenced, match="'twice' was taken over"):
            train_on(old)
        backward(second)
        new.step()


# -- threads and processes -------------------------------------------------------------------------


def test_two_workers_and_a_follower_share_a_process() -> None:
    model = small()
    with gradmq.LocalCluster(
        model, 2, gradmq.SGD(lr=0.01), gradmq.Unbounded(), {"run.release_every": "50ms"}
    ) as cluster:
        failures: list[BaseException] = []

        def train(model: nn.Module) -> None:
            try:
                with gradmq.Worker(model, cluster.address) as worker:
                    for seed in range(25):
                        backward(model, seed)
                        worker.step()
                    worker.drain()
            except BaseException as error:
                failures.append(error)
                raise

        threads = [threading.Thread(target=train, args=(small(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        with gradmq.Follower(small(), cluster.address) as follower:
            release = follower.update()
            while [version for _, version in release.versions] != [50, 50] and not failures:
                newer = follower.update(timeout=1.0)
                assert newer.number >= release.number
                release = newer
        for thread in threads:
            thread.join()
        assert not failures
        assert [version for _, version in cluster.versions()] == [50, 50]


class Samples(Dataset[tuple[torch.Tensor, torch.Tensor, str]]):
    """Reaches for the worker in the loader's processes, where it is only a copy."""

    def __init__(self, worker: gradmq.Worker) -> None:
        self.worker = worker

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, str]:
        try:
            said = f"stopping: {self.worker.stopping}"
        except gradmq.Closed as error:
            said = str(error)
        inputs, targets = batch(index)
        return inputs[0], targets[0], said


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_data_loaders_processes_run_beside_an_open_worker(cluster: gradmq.LocalCluster) -> None:
    model = small()
    with gradmq.Worker(model, cluster.address) as worker:
        loader = DataLoader(
            Samples(worker), batch_size=8, num_workers=2, multiprocessing_context="fork"
        )
        before = cluster.versions()[0][1]
        for _ in range(2):
            for inputs, targets, said in loader:
                assert all("make one after the fork" in text for text in said)
                loss = nn.functional.mse_loss(model(inputs), targets)
                loss.backward()  # type: ignore[no-untyped-call]
                worker.step(loss=loss, samples=len(inputs))
        worker.drain()
        assert cluster.versions()[0][1] == before + 6


def test_a_forked_child_that_unwinds_the_programs_blocks_disturbs_nobody() -> None:
    done = run(
        """
import os, sys, warnings, numpy, gradmq
array = {"w": numpy.zeros(3, numpy.float32)}
with gradmq.LocalCluster(array, optimizer=gradmq.SGD(lr=1.0)) as cluster:
    with gradmq.Worker(array, cluster.address) as worker:
        with gradmq.Follower({"w": numpy.zeros(3, numpy.float32)}, cluster.address) as follower:
            child = os.fork()
            if not child:
                # Popen's, of processes that are its parent's.
                warnings.simplefilter("ignore", ResourceWarning)
                for call in (worker.pull, worker.drain, worker.catch_up, follower.update,
                             lambda: worker.stopping, lambda: follower.stopping, cluster.status):
                    try:
                        call()
                    except gradmq.Closed:
                        continue
                    os._exit(1)
                sys.exit(7)  # leaves through all three blocks
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert worker.push({"w": numpy.ones(3, numpy.float32)}).verdict().applied
            follower.update()
    cluster.kill("ps-0")
    cluster.restart_shard(0)  # in the folder that must still be there
print("done")
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_program_ends_without_close(cluster: gradmq.LocalCluster) -> None:
    done = run(
        """
import sys, numpy, gradmq
array = {"w": numpy.zeros(3, numpy.float32)}
cluster = gradmq.LocalCluster(array).open()
worker = gradmq.Worker(array, cluster.address).open()
follower = gradmq.Follower(array, cluster.address).open()
worker.push({"w": numpy.ones(3, numpy.float32)})
print(*cluster.pids("ps"), *cluster.pids("broker"))
sys.exit(3)
"""
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert not any(map(_runs, done.stdout.split()))


def test_a_killed_program_leaves_no_roles_though_a_child_of_it_lives_on(tmp_path: Path) -> None:
    done = run(
        """
import os, signal, sys, numpy, gradmq
cluster = gradmq.LocalCluster({"w": numpy.zeros(3, numpy.float32)}, folder=sys.argv[1]).open()
child = os.fork()
if not child:
    os.closerange(0, 3)
    signal.pause()
print(child, *cluster.pids("ps"), *cluster.pids("broker"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        tmp_path,
    )
    assert done.returncode == -signal.SIGKILL
    child, *roles = done.stdout.split()
    while any(map(_runs, roles)):  # the test's time limit ends this
        pass
    assert _runs(child)
    os.kill(int(child), signal.SIGKILL)


def _runs(pid: str) -> bool:
    try:
        return bool(psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
