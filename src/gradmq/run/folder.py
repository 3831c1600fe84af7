"""A run's folder: what it was told, what it logged, what it saved.

runs/NAME/  settings.toml   all settings, as they were used
            run.json        job, command, when
            metrics.jsonl   one line a second
            logs/ROLE.log
            checkpoints/shard-I/release-NNNNNN.safetensors
            best.safetensors  parameters of the best release, where the job evaluates
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from gradmq import strict_json
from gradmq.errors import CheckpointError, SettingsError
from gradmq.ps.checkpoint import saved_releases, shard_folder
from gradmq.ps.journal.segments import journal_folder, segments


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.settings = path / "settings.toml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best.safetensors"
        self._about = path / "run.json"

    @classmethod
    def create(cls, parent: Path, name: str, job: str) -> RunFolder:
        """A new folder: NAME, or JOB-N with the first free N; raises SettingsError."""
        try:
            parent.mkdir(parents=True, exist_ok=True)
            if name:
                path = parent / name
                if path.exists():
                    raise SettingsError(
                        f"run folder {path} exists; choose another --name, or --resume {path}"
                    )
            else:
                number = 1
                while (path := parent / f"{job}-{number}").exists():
                    number += 1
            (path / "logs").mkdir(parents=True)
        except OSError as error:
            raise SettingsError(f"cannot make a run folder in {parent}: {error.strerror}") from None
        return cls(path)

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """The folder of an earlier run; raises SettingsError."""
        folder = cls(path)
        if not folder.settings.is_file():
            raise SettingsError(f"{path} is not a run folder: it has no settings.toml")
        return folder

    def write(self, settings_toml: str, job: str) -> None:
        """What a later --resume needs; raises SettingsError."""
        about = {"job": job, "started": time.time()}
        try:
            self.settings.write_text(settings_toml)
            self._about.write_text(json.dumps(about) + "\n")
        except OSError as error:
            raise SettingsError(f"cannot write to {self.path}: {error.strerror}") from None

    def job(self) -> str:
        """What the run trains; raises SettingsError."""
        try:
            return str(json.loads(self._about.read_text())["job"])
        except (OSError, ValueError, KeyError) as error:
            raise SettingsError(f"{self._about} cannot be read: {error}") from None

    def release_to_restore(self, shards: int) -> int | None:
        """The release that all shards begin with; None: each goes on with what its journal holds.

        Raises CheckpointError if there is neither.
        """
        journals = (journal_folder(shard_folder(self.checkpoints, i)) for i in range(shards))
        return None if all(map(segments, journals)) else self.newest_whole_release(shards)

    def newest_whole_release(self, shards: int) -> int:
        """The newest release that every shard has on disk; raises CheckpointError."""
        return newest_whole_release(self.checkpoints, shards)

    def append_metrics(self, line: dict[str, Any]) -> None:
        with self.metrics.open("a") as stream:
            stream.write(strict_json.dumps(line) + "\n")


def newest_whole_release(checkpoints: Path, shards: int) -> int:
    """The newest release in this folder that every shard has; raises CheckpointError."""
    saved = [set(saved_releases(checkpoints, shard)) for shard in range(shards)]
    whole = set.intersection(*saved)
    if not whole:
        raise CheckpointError(f"{checkpoints} holds no release of all {shards} shards")
    return max(whole)
