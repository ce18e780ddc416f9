"""The processes of a run: membership, communication and lifecycle."""
