"""The drill: take the machine of a run away, and judge what came of it."""
