"""What the store of a run must hold, and whether one holds it already."""
