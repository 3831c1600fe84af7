"""``python -m chaos``: real processes under faults by seed, and a checker of what they did."""
