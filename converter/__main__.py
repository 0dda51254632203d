"""`python -m converter` and the command `cerebras-tool`."""

import sys


def main() -> None:
    """Run the command line and end the process. Control-C while the program is being imported is one line, too."""
    try:
        from converter.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was left half done\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
