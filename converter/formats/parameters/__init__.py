"""The parameters folder: plain files, a manifest that reads back, and model.properties for a Java program."""

from typing import Final

NAME: Final = "parameters"
MANIFEST: Final = "manifest.json"
