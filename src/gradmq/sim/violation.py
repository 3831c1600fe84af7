"""What the simulator raises when a promise was broken."""

from __future__ import annotations

from gradmq.errors import GradmqError


class Violation(GradmqError):
    """A promise of the protocol was broken in a simulated schedule."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
        """A short name of the promise: "exactly once", "never torn", …"""
        self.text = text
