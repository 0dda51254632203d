"""Copies held against their source."""
