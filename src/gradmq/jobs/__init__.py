"""Jobs by name or by file: ``load("lm")``, ``load("my_job.py")``."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

from gradmq.errors import JobError
from gradmq.job import Job

#: Name -> the module that defines the job. Importing one of them imports no torch.
BUILT_IN: Final = {"fashion-mnist": "gradmq.jobs.fashion_mnist", "lm": "gradmq.jobs.lm"}

#: What each new job file is in ``sys.modules``, followed by its name without ``.py``.
_MODULE_PREFIX: Final = "gradmq_job_"


def load(name_or_path: str) -> Job:
    """The built-in job of that name, else the ``job`` that a Python file defines.

    A file is run once at every call, and may import what lies beside it, as a script may. Raises
    ``JobError`` for an unknown name and for a file that is missing, fails, or defines no job.
    """
    if name_or_path in BUILT_IN:
        job: Job = import_module(BUILT_IN[name_or_path]).job
        return job
    if not name_or_path.endswith(".py"):
        known = ", ".join(sorted(BUILT_IN))
        raise JobError(
            f"unknown job {name_or_path!r}: use {known}, or the path of a .py file that defines one"
        )
    path = Path(name_or_path)
    if not path.is_file():
        raise JobError(f"job file {path} does not exist: give the path of a .py file")
    return _job_of(_module_from(path), path)


def _module_from(path: Path) -> ModuleType:
    name = _MODULE_PREFIX + path.stem
    spec = spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None  # both exist for every *.py path
    module = module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        # For good: the job's callables run later, and import what they need only then.
        sys.path.insert(0, folder)
    # Dataclasses and type hints in the file look their module up here while it runs.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        line = _line_to_blame(error, path.resolve())
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise JobError(f"job file {path}, line {line} fails: {what}") from error
    return module


def _line_to_blame(error: BaseException, path: Path) -> int:
    """The line of ``path`` that failed, also when it failed inside something it called."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno or 1 for frame in reversed(frames) if frame.filename == str(path)), 1)


def _job_of(module: ModuleType, path: Path) -> Job:
    job = getattr(module, "job", None)
    if isinstance(job, Job):
        return job
    if job is not None:
        raise JobError(f"job file {path}: `job` is of type {type(job).__name__}, not a gradmq.Job")
    others = [name for name, value in vars(module).items() if isinstance(value, Job)]
    hint = f": rename `{others[0]}` to `job`" if others else ": end it with `job = gradmq.Job(...)`"
    raise JobError(f"job file {path} defines no `job`{hint}")
