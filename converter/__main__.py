"""`python -m converter` is `cerebras-tool`."""

from converter.cli.app import app

app(prog_name="cerebras-tool")
