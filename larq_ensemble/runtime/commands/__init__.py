"""Commands that run a converted file."""
