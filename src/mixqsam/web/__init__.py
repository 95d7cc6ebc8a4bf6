"""A static page that runs an exported model in the browser: its files, and those of the runtime beside it."""
