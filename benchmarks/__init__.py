"""Measurements that can be repeated; they are not tests."""
