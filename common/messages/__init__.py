"""Messages between coordinator and stages: calls, reports, frame envelopes."""
