"""From the paths that a user names to documents, or to pieces of bytes."""
