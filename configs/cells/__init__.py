"""The cells of the paper tables, by subject; `configs/paper.py` names them."""
