"""From a catalogue to files."""
