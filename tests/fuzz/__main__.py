"""``python -m fuzz``: feed mutated bytes to readers and to the ports of every role.

    python -m fuzz [TARGET…] [--inputs N] [--seed N] [--engine mutate|atheris]

Without a target: all readers, then ``ports``. Ends with status 1 if anything was found; an input
that was is printed, to become a test. ``atheris`` (pip install atheris) looks at which code an
input reached; it takes one target and runs until Ctrl-C or a finding.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
from itertools import islice
from random import Random

from fuzz.engine import fuzz
from fuzz.mutate import Parts, mutations
from fuzz.ports import fuzz_ports
from fuzz.targets import TARGETS, Target

PORTS = "ports"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, PORTS, []], metavar="TARGET")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of each reader")
    parser.add_argument("--connections", type=int, default=2_000, help="to each port")
    parser.add_argument("--seed", type=int, help="default: of the clock")
    parser.add_argument("--engine", choices=["mutate", "atheris"], default="mutate")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time())
    names = options.targets or [*TARGETS, PORTS]
    if options.engine == "atheris":
        return with_atheris(TARGETS[names[0]])
    results = [
        ports(seed, options.connections) if name == PORTS else reader(name, seed, options.inputs)
        for name in names
    ]
    return 0 if all(results) else 1


def reader(name: str, seed: int, inputs: int) -> bool:
    began_at = time.monotonic()
    target = TARGETS[name]
    stream = mutations(target.corpus(), Random(f"{seed} {name}"))
    found = fuzz(target, islice(stream, inputs))
    took_s = time.monotonic() - began_at
    print(
        f"{name}, seed {seed}: {found.inputs} inputs in {took_s:.0f} s, {found.taken} taken, "
        f"slowest {1000 * found.slowest_s:.1f} ms, memory +{found.grown_bytes / 1e6:.1f} MB, "
        f"findings {len(found.findings)}",
        flush=True,
    )
    for text, parts in found.findings[:5]:
        print(f"  {text}\n    {parts!r}"[:2000])
    return not found.findings


def ports(seed: int, connections: int) -> bool:
    began_at = time.monotonic()
    found = fuzz_ports(Random(f"{seed} ports"), connections)
    print(
        f"ports, seed {seed}: {found.connections} connections to {len(found.grown_bytes)} roles "
        f"in {time.monotonic() - began_at:.0f} s, memory "
        + ", ".join(f"{role} +{grown / 1e6:.1f} MB" for role, grown in found.grown_bytes.items())
        + f", findings {len(found.findings)}",
        flush=True,
    )
    for text in found.findings[:10]:
        print(f"  {text}"[:1000])
    return not found.findings


def with_atheris(target: Target) -> int:
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: pip install atheris")
        return 2
    atheris.instrument_all()
    target.corpus()
    atheris.Setup([sys.argv[0]], lambda data: target.read(split(data)) and None)
    atheris.Fuzz()
    return 0


def split(data: bytes) -> Parts:
    """Parts out of one string: each behind its length as two bytes, the rest is the last."""
    parts = []
    while len(data) > 2 and len(parts) < 8:
        (size,) = struct.unpack_from("<H", data)
        parts.append(data[2 : 2 + size])
        data = data[2 + size :]
    return parts


if __name__ == "__main__":
    sys.exit(main())
