"""`python -m converter` is `cerebras-tool`."""

from converter.cli import app

app(prog_name="cerebras-tool")
