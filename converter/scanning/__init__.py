"""Finds out what loading a file would do, without loading it."""
