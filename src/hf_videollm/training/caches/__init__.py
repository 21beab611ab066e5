"""Single frames and sounds of clips as mappings, and cached features of a frozen tower."""
