"""``python -m gradmq.infer`` is ``gradmq infer``."""

import sys

from gradmq.cli import main

if __name__ == "__main__":
    main(["infer", *sys.argv[1:]])
