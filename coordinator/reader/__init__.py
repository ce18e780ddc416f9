"""A reader: a process that reads the training videos and feeds some of the replicas, in place of the coordinator."""
