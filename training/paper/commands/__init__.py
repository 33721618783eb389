"""The command that reproduces the paper."""
