"""Starting and restarting a run's processes."""
