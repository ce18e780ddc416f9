"""The Sideways rule: schedule, packet, stage, loss, optimiser, and the one-process reference."""
