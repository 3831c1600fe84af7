"""Asynchronous training over message queues, with the model served live while it learns.

Importing this package is cheap: nothing is loaded before it is used, torch not before a model is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradmq.errors import (
        BrokerAway,
        CheckpointError,
        Closed,
        DrainTimeout,
        Fenced,
        GradmqError,
        JobError,
        JoinRefused,
        LayoutMismatch,
        RemoteProtocolError,
        RoleFailed,
        SettingsError,
        ShardAway,
        WaitTimeout,
        WireVersionMismatch,
    )
    from gradmq.infer.follower import FollowedRelease, Follower
    from gradmq.job import Job, JobContext
    from gradmq.process import keep_memory
    from gradmq.ps.optim import SGD
    from gradmq.ps.policy import Bounded, Unbounded
    from gradmq.run.cluster import LocalCluster
    from gradmq.serve import TensorModel, TensorSpec, TextModel
    from gradmq.worker.client import PushHandle, Step, Worker

_HOME = {
    "Worker": "gradmq.worker.client",
    "Step": "gradmq.worker.client",
    "PushHandle": "gradmq.worker.client",
    "Follower": "gradmq.infer.follower",
    "FollowedRelease": "gradmq.infer.follower",
    "LocalCluster": "gradmq.run.cluster",
    "Job": "gradmq.job",
    "JobContext": "gradmq.job",
    "keep_memory": "gradmq.process",
    "SGD": "gradmq.ps.optim",
    "Bounded": "gradmq.ps.policy",
    "Unbounded": "gradmq.ps.policy",
    "TensorModel": "gradmq.serve",
    "TensorSpec": "gradmq.serve",
    "TextModel": "gradmq.serve",
    "GradmqError": "gradmq.errors",
    "SettingsError": "gradmq.errors",
    "JobError": "gradmq.errors",
    "RemoteProtocolError": "gradmq.errors",
    "WireVersionMismatch": "gradmq.errors",
    "LayoutMismatch": "gradmq.errors",
    "JoinRefused": "gradmq.errors",
    "Fenced": "gradmq.errors",
    "WaitTimeout": "gradmq.errors",
    "BrokerAway": "gradmq.errors",
    "ShardAway": "gradmq.errors",
    "DrainTimeout": "gradmq.errors",
    "Closed": "gradmq.errors",
    "CheckpointError": "gradmq.errors",
    "RoleFailed": "gradmq.errors",
}

__all__ = [
    "SGD",
    "Bounded",
    "BrokerAway",
    "CheckpointError",
    "Closed",
    "DrainTimeout",
    "Fenced",
    "FollowedRelease",
    "Follower",
    "GradmqError",
    "Job",
    "JobContext",
    "JobError",
    "JoinRefused",
    "LayoutMismatch",
    "LocalCluster",
    "PushHandle",
    "RemoteProtocolError",
    "RoleFailed",
    "SettingsError",
    "ShardAway",
    "Step",
    "TensorModel",
    "TensorSpec",
    "TextModel",
    "Unbounded",
    "WaitTimeout",
    "WireVersionMismatch",
    "Worker",
    "keep_memory",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # takes as long as all the rest of an import

        return version("gradmq")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'gradmq' has no attribute {name!r}")
    return getattr(import_module(home), name)
