"""Many runs: grids and arms, which of them are missing, searches."""
