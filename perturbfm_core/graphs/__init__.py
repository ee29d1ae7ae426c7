"""Side information on genes: gene graphs, gene features, perturbation targets, and diffusion over graphs."""
