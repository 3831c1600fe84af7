"""``python -m soak``: what every role holds on to while a run goes on and on."""
