"""What is shown of runs: tables, plots and comparisons, all drawn from the files of run folders."""
