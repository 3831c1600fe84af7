"""The worker: pushes gradients and installs the freshest parameters."""
