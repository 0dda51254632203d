"""Examples for the help of each command: what it is for, and the words after `cerebras-tool`. Read only for help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

EXAMPLES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "inspect": (
        ("What is in a file, without running it:", "inspect pytorch_model.bin"),
        ("Only the embeddings, with their statistics:", "inspect pytorch_model.bin --filter wte --stats"),
        ("A page to look at, with plots:", "inspect pytorch_model.bin --stats --html page.html"),
        ("A model on the Hub. Only its headers are read:", "inspect hf://cerebras/Cerebras-GPT-111M"),
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
    "diff": (
        ("What did a fine-tune change?", "diff base tuned"),
        ("What did each of two fine-tunes change, and do the changes fit together?", "diff base tuned other"),
        ("What does a quantised file lose, as a page to look at?", "diff model model.gguf --html page.html"),
    ),
    "batch": (
        ("A job file with comments, to change:", "batch init job.toml"),
        ("What would be done?", "batch job.toml --dry-run"),
        ("On a Ray cluster:", "batch job.toml --engine ray --address auto"),
    ),
    "browse": (
        ("Look around in a checkpoint, and read what you choose:", "browse pytorch_model.bin"),
        ("Look at two side by side, and at what changed:", "browse base tuned"),
    ),
    "models": (("All declared models:", "models"), ("One of them, with its files and hashes:", "models 111M")),
    "download": (("A declared model, its hashes checked:", "download 111M"),),
    "schema": (("What does `scan --json` print?", "schema scan"),),
    "sample": (("A tiny checkpoint of the published form, to try things on:", "sample checkpoint"),),
    "demo": (("Every step, on a checkpoint made for it:", "demo"),),
    "help": (("How convert is used:", "help convert"), ("A manual page, for `man -l -`:", "help --man")),
}
