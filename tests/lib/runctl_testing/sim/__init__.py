"""A fake world for the real cores: one thread, one seed, one order of events, the same every time."""
