"""Training of networks: one epoch loop, losses, seeds, devices, checkpoints; nothing here knows a model."""
