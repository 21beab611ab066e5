"""Finished runs side by side: tables, a page, a plot, and files for the Hub."""
