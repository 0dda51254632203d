"""The small files that belong to a model and lie beside its weights."""

from typing import Final

CONFIG: Final = "config.json"
TOKENIZER: Final = (
    *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.model"),
)
GENERATION: Final = "generation_config.json"
LICENCES: Final = ("LICENSE", "LICENSE.txt", "LICENSE.md")
SIDECAR: Final = "values.json"  # values beside the weights; for a lone file, NAME.values.json
