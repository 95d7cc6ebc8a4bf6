"""The command line: parsing, progress and exit codes; no logic."""
