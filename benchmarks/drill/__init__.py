"""`make gpu`: everything that only a GPU can show, as one run with one report."""
