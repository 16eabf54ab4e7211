"""What users hold: the connection to a broker, publishers, consumers, tasks and receipts."""
