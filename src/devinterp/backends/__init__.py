"""An import path of DevInterp 1; see `devinterp.slt`."""
