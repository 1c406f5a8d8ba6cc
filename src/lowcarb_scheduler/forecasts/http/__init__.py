"""Client for web services that may be slow, wrong or hostile, and the parsing of their responses."""
