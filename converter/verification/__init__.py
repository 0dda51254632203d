"""Copies, compared with their source."""
