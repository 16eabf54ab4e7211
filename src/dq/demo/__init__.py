"""The demonstration: what `python -m dq.main` shows. Real files, real processes, two of them killed with `kill -9`."""
