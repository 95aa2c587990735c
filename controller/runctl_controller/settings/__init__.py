"""Settings: flag > environment > .runctl.toml > user file > default."""
