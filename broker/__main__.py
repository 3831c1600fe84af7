"""``python -m gradmq.broker`` is ``gradmq broker``."""

import sys

from gradmq.cli import main

if __name__ == "__main__":
    main(["broker", *sys.argv[1:]])
