"""The edges between neighbouring stages: their ends and their transports."""
