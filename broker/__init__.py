"""The broker: who is where, sessions and leases, releases."""
