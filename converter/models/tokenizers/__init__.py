"""Tokenizers: one type, readers of every file that holds one, and a writer of tokenizer.json."""
