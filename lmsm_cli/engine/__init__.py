"""Train and evaluate a classifier on a device; knows no files and no screen."""
