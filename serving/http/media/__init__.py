"""What bodies are made of: forms, JSON with base64, and content codings."""
