"""Headwater: a real-time vector search server whose change log is its spine."""

import os

# BLAS and OpenMP would start a thread per core in every process and fight the server's own
# threads. One each; parallelism is decided in `threads.py`. Must precede the first numpy import.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

__version__ = "1.0.0"
__all__ = ["__version__"]
