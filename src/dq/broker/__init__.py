"""The three processes: one life for all, then the manager, the publisher broker and the consumer broker."""
