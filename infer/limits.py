"""What one HTTP request may cost this node."""

from __future__ import annotations

from dataclasses import dataclass

from gradmq.config import InferSettings


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on a request; what exceeds one is refused by name and number."""

    body_bytes: int = 16 * 2**20
    held_body_bytes: int = 64 * 2**20
    """Bodies of all requests inside the node together."""
    request_s: float = 60.0
    """From the end of the headers to the answer: reading, waiting for the model, running it."""
    waiting_requests: int = 256
    """Requests that wait for the model; completions count until they end."""
    running_completions: int = 16
    """Requests whose completions take turns on the model; the others wait for one of these."""
    turn_s: float = 0.005
    """How long a completion generates, at least one token, before it is the next one's turn: long
    beside what changing over costs, short beside what a person notices."""
    completion_tokens: int = 1024
    """Largest ``max_tokens``."""
    choices: int = 16
    """Completions in one request: prompts times ``n``."""
    scored_tokens: int = 8192
    """Tokens of prompts in one request whose logprobs are told."""
    batch_rows: int = 1
    """Rows of tensors that run together; 1: every request by itself."""
    batch_delay_s: float = 0.0
    """Longest wait for others to run with; 0: only while the model is busy."""

    @classmethod
    def of(cls, settings: InferSettings) -> HttpLimits:
        """Those that are set, and the others as they are."""
        return cls(
            request_s=settings.request_timeout,
            waiting_requests=settings.max_queue_size,
            batch_rows=settings.max_batch_size,
            batch_delay_s=settings.max_queue_delay,
        )
