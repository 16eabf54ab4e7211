"""Streams as JSON lines, out of one data directory and into another."""
