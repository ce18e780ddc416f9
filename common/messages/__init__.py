"""What coordinator and stages say to each other: calls, reports, frame envelopes."""
