"""Parameter files of torch: the one place that reads a ``.pth``, and only with ``weights_only``."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from gradmq.errors import CheckpointError


def read_parameters(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a ``.safetensors`` or ``.pth`` file; raises CheckpointError."""
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise CheckpointError(f"{path} is neither .safetensors nor .pth")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (a damaged file fails in a dozen ways)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"cannot read parameters from {path}: {reason}") from None
    if isinstance(values, dict) and isinstance(values.get("state_dict"), dict):
        values = values["state_dict"]
    if not isinstance(values, dict) or not all(torch.is_tensor(v) for v in values.values()):
        raise CheckpointError(f"{path} does not hold tensors by name; save model.state_dict()")
    return values


def load_into(model: torch.nn.Module, path: Path) -> None:
    """Put the parameters of a file into a model; raises CheckpointError that names what differs."""
    try:
        model.load_state_dict(read_parameters(path))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise CheckpointError(f"{path} is of another model: {' '.join(lines)[:300]}") from None
