"""What outlives the agent's process: its state, and the events that nobody has committed yet."""
