"""Metrics, spans, and the HTTP server that shows them."""
