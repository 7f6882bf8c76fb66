"""Both implementations of the lab's commands, against a real broker, over a proxy that fails in every known way."""
