"""The token of an inference node: in a file that nobody else can read, never among arguments."""

from __future__ import annotations

from pathlib import Path

from gradmq.errors import SettingsError
from gradmq.security.keys import read_secret

#: Below this a token is guessed: 16 random bytes are 22 characters in base64.
SHORTEST = 16


def read_token(path: Path | None) -> str:
    """The token in this file; "" without a file. Raises SettingsError."""
    if path is None:
        return ""
    token = read_secret(path, "write a random token there: openssl rand -base64 32").strip()
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(
            f"{path} must hold one token of at least {SHORTEST} printable characters without "
            f"blanks; it holds {len(token)}: openssl rand -base64 32 > {path}"
        )
    return token
