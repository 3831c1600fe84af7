"""``python -m gradmq.ps`` is ``gradmq ps``."""

import sys

from gradmq.cli import main

if __name__ == "__main__":
    main(["ps", *sys.argv[1:]])
