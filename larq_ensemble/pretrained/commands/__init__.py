"""The command that shows the networks of the package."""
