"""Supervises the training's processes: starts, adopts, signals and ends them, and reads what they print."""
