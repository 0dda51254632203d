"""What the tests ask of processes that they start."""

import signal


def interruptible() -> None:
    """Restore SIGINT's default in a child, as `preexec_fn`: a suite that runs in the background ignores the signal, and
    children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
