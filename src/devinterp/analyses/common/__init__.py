"""What analyses share: data of a run, means over losses, lazy blocks, convergence and errors."""
