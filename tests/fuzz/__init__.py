"""``python -m fuzz``: mutated bytes for every reader of bytes that others wrote."""
