"""All that is shown on a screen: a module for each command, and :mod:`.terminal` for all of them.

The only modules that use rich. The result goes to stdout, progress to stderr and only to a
terminal. On a terminal a table fits its width and has bars; elsewhere it is plain text of stable
columns, whatever their width.
"""
