"""Tests of pages and of the scripts in them, in a real browser."""
