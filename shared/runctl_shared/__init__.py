"""What runctl's agent and controller must agree on."""

__version__ = "0.1.0"
