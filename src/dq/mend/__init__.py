"""What is done to logs by hand: `verify` looks, `repair` mends, `salvage` saves what can be read. Nothing is ever destroyed."""
