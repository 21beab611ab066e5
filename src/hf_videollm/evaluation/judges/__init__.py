"""Judges of free answers: the papers' judge texts, their call policies, and what answers the calls."""
