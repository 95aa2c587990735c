"""The agent's edges: each owns one outside thing, turns it into inputs, and carries out effects."""
