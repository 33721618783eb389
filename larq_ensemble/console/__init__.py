"""Shared code of the commands: options, tables, JSON, messages."""
