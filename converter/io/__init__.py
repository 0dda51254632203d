"""Bytes in, bytes out: files, ranges of remote objects, archives, and outputs that are complete or absent."""
