"""Every family's default configuration, and each of its keys changed: see write_wild.py."""
