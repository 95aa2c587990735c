"""What the machine says of the training: its memory, its GPUs, its processes."""
