"""What each block costs, and the split whose slowest stage is fastest."""
