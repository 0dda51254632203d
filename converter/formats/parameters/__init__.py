"""The parameters folder: plain files, a manifest that reads back, and model.properties for a Java program."""

from typing import Final

from converter.formats.format import Format, lazily

MANIFEST: Final = "manifest.json"

PARAMETERS: Final = Format(
    name="parameters",
    title="parameters folder",
    is_folder=lambda path: (path / MANIFEST).is_file(),
    read_folder=lazily("converter.formats.parameters.folder", "read_folder"),
    plan=lazily("converter.formats.parameters.folder", "plan"),
    dtypes=("keep",),
    whole_folder=True,
    companions=False,
    check=lazily("converter.formats.parameters.check", "check"),
    tanh=True,
)
