"""Families of models and the declared models: which of them a catalogue is, and what belongs to it."""
