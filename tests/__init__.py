"""The tests, and what they share."""

import os

# numpy's matrices are small here: threads would wait for each other, and for the other workers, longer than they compute.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
