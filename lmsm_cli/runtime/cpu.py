"""The cores and threads of this process."""

import os


def num_cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_for(local_size: int) -> int:
    """Return the cores for each of `local_size` processes on this host, at least 1."""
    return max(1, num_cores() // local_size)
