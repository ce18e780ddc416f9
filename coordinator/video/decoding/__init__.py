"""From a file's packets to frames of the wanted size and rate."""
