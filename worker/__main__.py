"""``python -m gradmq.worker`` is ``gradmq worker``."""

import sys

from gradmq.cli import main

if __name__ == "__main__":
    main(["worker", *sys.argv[1:]])
