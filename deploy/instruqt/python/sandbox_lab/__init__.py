"""Commands for a lab host to claim and release a sandbox, with nothing but the standard library.

The same four commands as the shell scripts beside it, held to the same table of behaviour by the same tests.
"""
