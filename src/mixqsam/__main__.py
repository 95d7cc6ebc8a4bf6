"""`python -m mixqsam`."""

from mixqsam.cli.main import run

run()
