"""What a finished run is asked: evaluate, predict, export, adjust."""
