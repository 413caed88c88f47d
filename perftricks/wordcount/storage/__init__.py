"""What is kept on the disk and read back: sealed files, and the folder of the cache."""
