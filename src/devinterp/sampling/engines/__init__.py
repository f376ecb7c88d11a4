"""How the losses and gradients of one or several chains are computed, and which fast path may be used."""
