"""Files that other software wrote; make.py wrote them."""
