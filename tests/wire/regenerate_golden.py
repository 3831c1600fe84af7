"""Write the golden files anew: ``python tests/wire/regenerate_golden.py``.

Only after a deliberate change of the wire; what that asks for is in docs/wire.md §9.
"""

from __future__ import annotations

from conftest import FOLDER, GOLDEN, LAYOUT, to_file
from gradmq.wire.codec import encode


def main() -> None:
    for path in FOLDER.glob("*.bin"):
        path.unlink()
    FOLDER.mkdir(exist_ok=True)
    for name, message in GOLDEN.items():
        (FOLDER / f"{name}.bin").write_bytes(to_file(encode(message)))
    (FOLDER / "layout.bin").write_bytes(LAYOUT.to_bytes())
    print(f"{len(GOLDEN) + 1} files in {FOLDER}; layout hash {LAYOUT.hash}")


if __name__ == "__main__":
    main()
