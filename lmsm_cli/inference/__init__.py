"""What uses a finished run: evaluation, prediction, export, corrections for rare classes."""
