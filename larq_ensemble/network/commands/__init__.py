"""Commands that count what a network costs."""
