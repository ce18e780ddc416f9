"""What the coordinator and the stage workers both speak. Imports neither of them."""
