"""Values that pass between the parts of dq: frozen, without I/O."""
