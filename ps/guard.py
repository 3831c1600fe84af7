"""What keeps strangers out of a shard: its gate, and a look at the key behind every message.

The allow-list is the broker's; it comes with the directory, and what was revoked is refused from
then on. A run without keys has no guard, and pays nothing for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from gradmq import link
from gradmq.ps.shard import Shard
from gradmq.security.access import Access, Domain
from gradmq.security.gate import Gate
from gradmq.security.keys import Identity
from gradmq.security.self_test import prove_closed
from gradmq.wire.messages import Directory, Fetch, Message

log = logging.getLogger(__name__)

#: Refused pushes that are read in one go: then the shard looks at its other sockets.
PASSED_OVER = 64


class ShardGuard:
    """Guards the three sockets of one shard while its gate is open; for one thread."""

    def __init__(self, gate: Gate, identity: Identity) -> None:
        """The gate lets in nobody until the broker says whom."""
        self._identity = identity
        self._gate = gate

    def prove_closed(
        self, gradients: link.Socket, parameters: link.Socket, control: link.Socket
    ) -> None:
        """Raises SettingsError if one of them lets a stranger in."""
        listeners = {"gradients": gradients, "parameters": parameters, "control": control}
        prove_closed(listeners, self._identity, self._gate)

    def on_directory(self, directory: Directory, listeners: Iterable[link.Socket]) -> None:
        """Go by the newest list; raises SettingsError if one of these cannot listen any more.

        What a revoked key says is not heard from now on. What it hears ends with its connections,
        and libzmq cannot end those of one peer: all lose theirs, and those who may come back.
        """
        before, self._gate.access = self._gate.access, Access(directory.allowed)
        gone = self._gate.access.revoked_since(before)
        if gone:
            log.warning("revoked: %s; everybody connects anew", ", ".join(gone))
            for listener in listeners:
                link.disconnect_all(listener)

    def receive_push(self, gradients: link.Socket, shard: Shard) -> Message | None:
        """The next message of the gradient socket that may be heard; others are passed over."""
        for _ in range(PASSED_OVER):
            try:
                received = link.receive(gradients, sender=True)
            except link.BadMessage as error:
                log.warning("ignored a message: %s", error)
                continue
            if received is None:
                return None
            sender, message = received
            refusal = self._refusal("gradients", shard, sender, message)
            if not refusal:
                return message
            log.warning("ignored a %s: %s", message.KIND, refusal)
        return None

    def refusal(self, shard: Shard, sender: Sequence[bytes], message: Message) -> str:
        """Why what came over the control socket is not heard; "" if it is."""
        return self._refusal("control", shard, sender, message)

    def _refusal(
        self, domain: Domain, shard: Shard, sender: Sequence[bytes], message: Message
    ) -> str:
        access, key = self._gate.access, sender[0].decode()
        refusal = access.refusal(domain, key, message)
        session = getattr(message, "session", None)
        if refusal or session is None or isinstance(message, Fetch):  # who fetches changes nothing
            return refusal
        owner, name = shard.owner(session), access.name_of(key)
        return "" if owner in ("", name) else f"session {session} is {owner}'s, not {name}'s"
