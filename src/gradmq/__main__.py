"""``python -m gradmq`` is ``gradmq``."""

from gradmq.cli import main

if __name__ == "__main__":
    main()
