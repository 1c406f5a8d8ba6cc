"""Asking web services that may be slow, wrong or hostile, and reading what they answer."""
