"""Pickles, run without calling anything: opcodes, the closed table of globals, and what a state dict becomes."""
