"""How agents are let into the bus: each as itself, and no further than it must."""
