"""Starting the one entry point on one node or many. Nothing here imports torch, so that it starts at once."""
