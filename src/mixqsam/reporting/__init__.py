"""Reports, summaries, tables and pictures for people. Never imports torch."""
