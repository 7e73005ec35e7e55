"""`snapensemble predict` for folders: pictures found, answered, written down, put by class."""
