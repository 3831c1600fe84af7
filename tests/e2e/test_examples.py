"""Every example of embedding runs as a user would run it, and what it trains gets better."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.torch]

EXAMPLES = Path(__file__).parents[2] / "examples"

#: What an example needs beyond gradmq.
NEEDS = {
    "embed_lightning": ("lightning",),
    "embed_hf_trainer": ("transformers", "accelerate"),
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("embed_*.py")), ids=lambda path: path.stem)
def test_an_example_runs_and_its_loss_falls(path: Path, tmp_path: Path) -> None:
    needs = NEEDS.get(path.stem, ())
    for package in needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install {' '.join(needs)}")
    # Our own examples are free of warnings; other people's frameworks are their business.
    strict = [] if needs else ["-W", "error"]
    done = subprocess.run(
        [sys.executable, *strict, path],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stderr
    if not needs:
        assert done.stderr == ""
    said = re.search(r"loss fell from (\S+) to (\S+) in (\d+) updates", done.stdout)
    assert said is not None, done.stdout
    assert float(said[2]) < 0.5 * float(said[1])
    assert int(said[3]) > 0
