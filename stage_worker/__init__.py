"""One layer group: a process that computes with the newest activation and the newest gradient, tick after tick."""
