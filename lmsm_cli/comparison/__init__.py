"""Which differences between runs are real: groups of runs, their means, intervals and verdicts."""
