"""Code shared by the coordinator and the stage workers. Imports neither of them."""
