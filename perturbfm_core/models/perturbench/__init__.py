"""PerturBench's simple networks: linear additive, latent additive and decoder only."""
