"""Counting words under faults."""
