"""A role that listens proves to itself, before anybody else connects, that strangers are refused.

Several settings must be right together, and libzmq lets everybody in when one of them is not: CURVE
without ZAP, a domain that is not enforced, one that is empty.
"""

from __future__ import annotations

import zmq
from zmq.utils.monitor import recv_monitor_message

from gradmq.errors import SettingsError
from gradmq.security.gate import Gate
from gradmq.security.keys import Identity

#: A handshake on this host takes milliseconds; what was not refused by then hangs.
PROVE_S = 5.0

#: A peer of another type would be refused for that, and prove nothing.
PEERS = {
    zmq.SocketType.ROUTER: zmq.SocketType.DEALER,
    zmq.SocketType.PULL: zmq.SocketType.PUSH,
    zmq.SocketType.XPUB: zmq.SocketType.SUB,
}

#: How each stranger is refused, and in no other way: without a key the greeting ends it (who hears
#: of that first decides which event it is), with an unknown one the gate's answer does.
REFUSALS = {
    "no key": (zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL),
    "an unknown key": zmq.Event.HANDSHAKE_FAILED_AUTH,
}
DECIDED = (
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)


def prove_closed(listeners: dict[str, zmq.Socket[bytes]], identity: Identity, gate: Gate) -> None:
    """Knock at each listener without a key and with an unknown one; raises SettingsError if one
    of them is let in, or not refused in time."""
    gate.canary, secret = (half.decode() for half in zmq.curve_keypair())
    for name, listener in listeners.items():
        endpoint = _nearby(listener)
        peer = PEERS[zmq.SocketType(int(listener.getsockopt(zmq.TYPE)))]
        for stranger, refusal in REFUSALS.items():
            with zmq.Context() as context, context.socket(peer) as knocking:
                knocking.setsockopt(zmq.LINGER, 0)
                if stranger != "no key":
                    knocking.setsockopt(zmq.CURVE_SERVERKEY, identity.key.encode())
                    knocking.setsockopt(zmq.CURVE_PUBLICKEY, gate.canary.encode())
                    knocking.setsockopt(zmq.CURVE_SECRETKEY, secret.encode())
                if not _decision(knocking, endpoint) & refusal:
                    raise SettingsError(
                        f"the {name} socket at {endpoint} did not refuse a peer with {stranger}: "
                        "this role does not start"
                    )
    gate.canary = ""


def _decision(knocking: zmq.Socket[bytes], endpoint: str) -> int:
    """The event that ends the first handshake; 0 if it hangs."""
    events = knocking.get_monitor_socket(DECIDED)
    try:
        knocking.connect(endpoint)
        if not events.poll(int(1000 * PROVE_S)):
            return 0
        return int(recv_monitor_message(events)["event"])
    finally:
        knocking.disable_monitor()
        events.close()


def _nearby(listener: zmq.Socket[bytes]) -> str:
    """Where this process itself reaches the listener."""
    endpoint = listener.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.decode().replace("0.0.0.0", "127.0.0.1")  # noqa: S104
