"""Finds complete checkpoints in the directory where the training saves."""
