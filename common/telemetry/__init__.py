"""Metrics, spans, and the HTTP server that exposes them."""
