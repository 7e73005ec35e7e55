"""`snapensemble predict --ray`: blocks of pictures, answered by workers, kept by the command."""
