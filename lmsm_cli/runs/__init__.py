"""What a training leaves on disk: the run folder and its checkpoints."""
