"""Plain transcriptions of formulas, slow and obvious, that the fast forms are held against."""
