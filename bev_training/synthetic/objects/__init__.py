"""What stands and moves in the town: meshes, where they are put, and how they move."""
