"""Neural network of PerturbFM: inputs, message passing over gene graphs, training, and the gate."""
