"""`dq bench`: how fast dq is on this machine, beside what its disk can do."""
