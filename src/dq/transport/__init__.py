"""Frames on a pipe, the door by which clients come in, and waiting on many at once."""
