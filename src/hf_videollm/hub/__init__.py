"""Complete checkpoint folders."""
