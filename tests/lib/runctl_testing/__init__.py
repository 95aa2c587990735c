"""Helpers that tests of several folders share. Not product code, and never installed."""
