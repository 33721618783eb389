"""The commands of `larq-ensemble`, one module each with a click command named `command`."""
