"""Training over several processes: the process group, lost ranks, BatchNorm over all of them."""
