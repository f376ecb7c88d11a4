"""The built-in analyses: functions of a tree that never leave laziness and never start a run."""
