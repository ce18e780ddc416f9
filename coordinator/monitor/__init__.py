"""What the stages report: inbox (who is alive, who is done), totals (figures), display (terminal), record (files)."""
