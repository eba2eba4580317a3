"""The fault matrix: what may go wrong, one numbered test a row, and the table made of them."""
