"""Where pictures and their labels come from: folders, tables, Hugging Face, WebDataset."""
