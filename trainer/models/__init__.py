"""The networks, by the names that `--model` takes."""
