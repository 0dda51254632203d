"""Families of models and the declared models: which one a catalogue is, and what belongs to it."""
