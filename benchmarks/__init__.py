"""Measurements that can be repeated; they are not tests."""

from mixqsam.heap import keep_freed_memory

# As the command line does.
keep_freed_memory()
