"""`snapensemble predict` for folders of pictures: found, answered, written down, and put by class."""
