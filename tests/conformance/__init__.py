"""Public clients, as they come from PyPI, against real nodes."""
