"""Unit tests of which days are asked for, and which day a row belongs to."""
