"""Benchmarks: one file a question; results name machine, commit and command."""
