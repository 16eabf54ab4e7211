"""What `python -m dq.main` shows: the whole loop on real input."""
