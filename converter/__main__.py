"""`python -m converter` and the command `cerebras-tool`."""

import signal
import sys


class _Interrupt(KeyboardInterrupt):
    """Control-C, in a class of its own.

    When a KeyboardInterrupt itself passes through a text that Python compiles, as dataclasses do while modules are imported,
    Python remembers it, and `python -m` ends by SIGINT later, even if it was caught. Another class is not remembered.
    """


def _interrupt(number: int, frame: object) -> None:
    raise _Interrupt


def main() -> None:
    """Run the command line and end the process. Control-C while the program is being imported is one line, too."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # neither ignored nor somebody else's
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from converter.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was left half done\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
