"""Checkpoints on the Hub or at a URL."""
