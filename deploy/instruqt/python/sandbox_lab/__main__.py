"""`python -m sandbox_lab allocate | cleanup | provision-user | remove-user`."""

import sys

from sandbox_lab import commands

COMMANDS = {
    "allocate": commands.allocate,
    "cleanup": commands.cleanup,
    "provision-user": commands.provision_user,
    "remove-user": commands.remove_user,
}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.exit("usage: python -m sandbox_lab " + " | ".join(COMMANDS))
    sys.exit(COMMANDS[sys.argv[1]]())
