"""Models that are on disk: a run's saved releases, and files of parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from gradmq.config import resolve
from gradmq.errors import CheckpointError
from gradmq.infer.serving import ServedRelease
from gradmq.job import Job
from gradmq.layout import Layout
from gradmq.parameters_file import load_into
from gradmq.ps import checkpoint
from gradmq.run.folder import RunFolder, newest_whole_release
from gradmq.torch_binding import TorchBinding
from gradmq.wire.messages import Version


def read_saved(job: Job, path: Path) -> ServedRelease:
    """What is saved at ``path``: a run's folder, one with checkpoints, or a parameter file.

    Of several releases the newest that is whole. A file that does not say of which release it is
    counts as release 0. Raises CheckpointError or LayoutMismatch.
    """
    model = job.model()
    if path.is_file():
        load_into(model, path)
        return ServedRelease(_release_of(path), (), model.eval().requires_grad_(False))
    if not path.exists():
        kinds = "a run's folder, one of checkpoints, or a .safetensors or .pth file"
        raise CheckpointError(f"there is no {path}: give {kinds}")
    run = RunFolder(path)
    if run.settings.is_file():
        shards = resolve({}, run.settings, {}, {}).run.shards
        path = run.checkpoints
    else:
        shards = len(list(path.glob("shard-*")))
        if not shards:
            raise CheckpointError(f"{path} is no run's folder, and has no folder shard-0")
    release = newest_whole_release(path, shards)
    versions, module = saved_release(model, path, shards, release)
    return ServedRelease(release, versions, module)


def saved_release(
    model: torch.nn.Module, checkpoints: Path, shards: int, release: int
) -> tuple[tuple[Version, ...], torch.nn.Module]:
    """A saved release, its versions and a module in eval mode; ``model`` stays as it is.

    Raises CheckpointError for a damaged one, LayoutMismatch for one of another model.
    """
    loaded = [checkpoint.load(checkpoints, shard, release) for shard in range(shards)]
    binding = TorchBinding(model)
    _, layout, _ = loaded[0]
    Layout(binding.tensors, shards).require_equal(layout, "this model", f"{checkpoints}'s")
    states = [state for *_, state in loaded]
    versions = tuple((state.lineage[-1][0], state.version) for state in states)
    return versions, binding.with_values(layout, [(state.parameters,) for state in states])


def _release_of(path: Path) -> int:
    if path.suffix != ".safetensors":
        return 0
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("release", "")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    return int(text) if text.isascii() and text.isdecimal() else 0
