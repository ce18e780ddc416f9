"""Memory and sockets that processes of one host share."""
