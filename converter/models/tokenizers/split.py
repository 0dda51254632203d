"""The program of the child process that splits a text with the package `tokenizers`.

python split.py: the tokenizer.json and the text as a JSON list on stdin; the ids go to stdout as a JSON list. A file can
make the package use much time, or end its process, so it runs on its own.
"""

import json
import sys


def main() -> None:
    """Split the text on stdin."""
    from tokenizers import Tokenizer

    document, text = json.loads(sys.stdin.buffer.read())
    print(json.dumps(Tokenizer.from_str(document).encode(text).ids))


if __name__ == "__main__":
    main()
