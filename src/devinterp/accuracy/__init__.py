"""Problems whose learning coefficients are known exactly, and how close every kernel comes: ``devinterp bench accuracy``."""
