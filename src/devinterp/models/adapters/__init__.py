"""The built-in model adapters."""
