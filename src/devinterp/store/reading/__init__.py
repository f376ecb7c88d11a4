"""Reading a store: opening it as a tree, its status, checks of what it claims, and the stores of DevInterp 2."""
