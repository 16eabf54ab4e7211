"""Bytes on disk: the format, segments, a bucket's log, recovery, locks and storage backends."""
