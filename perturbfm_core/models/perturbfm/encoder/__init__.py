"""Cell encoders that are pre-trained on the train rows of a split."""
