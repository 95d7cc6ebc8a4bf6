"""Images, annotations and prompts; knows no model."""
