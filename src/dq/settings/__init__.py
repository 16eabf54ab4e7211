"""What users set: one table of settings, and where their values come from. See docs/configuration.md."""
