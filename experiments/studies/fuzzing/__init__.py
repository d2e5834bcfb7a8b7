"""Damaged and hostile files for every reader, and the check that each is read or refused in one line."""
