"""What a lab host runs to claim a sandbox and to give it back, without anything but the standard library.

The same four commands as the shell scripts beside it, held to the same table of behaviour by the same tests.
"""
