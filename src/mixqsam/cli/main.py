"""Entry point of the command `mixqsam`: all commands, in the order in which help lists them."""

from mixqsam.cli import deploying, judging, making, sharing, timing
from mixqsam.cli.app import app
from mixqsam.cli.command import install
from mixqsam.heap import keep_freed_memory
from mixqsam.waiting import shorten_waiting

for module, panel in (
    (making, "Make a quantized model"),
    (judging, "Judge models"),
    (deploying, "Show, use and deploy models"),
    (timing, "Show, use and deploy models"),
    (sharing, "Share models"),
):
    install(module.__name__, panel)


def run() -> None:
    """Run the command line."""
    keep_freed_memory()
    shorten_waiting()
    app()
