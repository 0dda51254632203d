"""How an in-toto statement begins. Source: github.com/in-toto/attestation, spec/v1/statement.md."""

from __future__ import annotations

from typing import Final

TYPE: Final = "https://in-toto.io/Statement/v1"
STATEMENT: Final = f'{{\n  "_type": "{TYPE}",\n'.encode()
