"""Runs on this machine: starting the roles, watching them, ending them."""
