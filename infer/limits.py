"""What one HTTP request may cost this node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on a request; what exceeds one is refused by name and number."""

    body_bytes: int = 16 * 2**20
    held_body_bytes: int = 64 * 2**20
    """Bodies of all requests inside the node together."""
    request_s: float = 60.0
    """From the end of the headers to the answer: reading, waiting for the model, running it."""
    waiting_requests: int = 256
    """Requests inside the node that wait for the model or run on it."""
    completion_tokens: int = 1024
    """Largest ``max_tokens``."""
    prompts: int = 16
    """Prompts in one completion request."""
