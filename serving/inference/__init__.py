"""What a request holds and what runs it; knows no HTTP."""
