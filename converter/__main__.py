"""`python -m converter` is `cerebras-tool`."""

from converter.cli.app import main

if __name__ == "__main__":
    main()
