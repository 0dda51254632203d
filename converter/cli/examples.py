"""Examples for the help of each command: what it is for, and the words after `cerebras-tool`. Read only for help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

EXAMPLES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "inspect": (
        ("What is in a file, without running it:", "inspect pytorch_model.bin"),
        ("Only the embeddings, with their statistics:", "inspect pytorch_model.bin --filter wte --stats"),
        ("A model on the Hub, of which only the headers are read:", "inspect hf://cerebras/Cerebras-GPT-111M"),
    ),
    "check": (
        ("Is a download whole, and are its numbers sound?", "check model"),
        ("In CI:", "check model --junit check.xml"),
    ),
    "extract": (
        ("Plain files by storage, and a manifest:", "extract pytorch_model.bin parameters/mine"),
        ("One file for each parameter, called by its name:", "extract pytorch_model.bin parameters/mine --form named"),
    ),
    "convert": (
        ("To safetensors, with config.json and the tokenizer beside it:", "convert model out --to safetensors"),
        ("To GGUF, in half precision:", "convert model model.gguf --dtype f16"),
        ("What would be written?", "convert model out --to safetensors --dry-run"),
    ),
    "scan": (
        ("May this file be opened?", "scan pytorch_model.bin"),
        ("Every file in a folder, with a report for code scanning:", "scan downloads --sarif scan.sarif"),
    ),
    "verify": (
        ("Are the weights of a copy the same?", "verify pytorch_model.bin model.safetensors"),
        ("Does it compute the same, too?", "verify model model.gguf --level inference"),
    ),
    "models": (("All declared models:", "models"), ("One of them, with its files and hashes:", "models 111M")),
    "download": (("A declared model, its hashes checked:", "download 111M"),),
    "sample": (("A tiny checkpoint of the published form, to try things on:", "sample checkpoint"),),
    "demo": (("Every step, on a checkpoint made for it:", "demo"),),
    "help": (("How convert is used:", "help convert"), ("A manual page, for `man -l -`:", "help --man")),
}
