"""Commands that write and examine converted files."""
