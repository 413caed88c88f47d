"""Tables of counts: in memory, lazy, and on the disk."""
