"""What a training step takes: memory, in a process of its own, and the largest batch that fits."""
