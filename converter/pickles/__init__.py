"""Runs pickles without calling anything: opcodes, the closed table of globals, and the tensors of a state dict."""
