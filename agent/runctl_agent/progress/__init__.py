"""Reads step, epoch and loss out of what a training prints."""
