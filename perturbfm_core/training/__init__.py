"""Training of networks: epoch loop, losses, seeds, devices, checkpoints; independent of any model."""
