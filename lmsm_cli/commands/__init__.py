"""The command line: one file a subcommand, tied together in `app`."""
