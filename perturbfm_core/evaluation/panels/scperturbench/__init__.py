"""The metrics of scPerturBench, from their definitions: arrays in, arrays out."""
