"""One training: the loop, its steps and schedules, and the run around it."""
