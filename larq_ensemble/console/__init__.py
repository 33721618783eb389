"""What the commands have in common: options, tables, JSON."""
