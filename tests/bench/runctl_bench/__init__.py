"""Measures the numbers that runctl promises to hold."""
