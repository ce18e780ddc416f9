"""Memory and sockets shared by the processes of one host."""
