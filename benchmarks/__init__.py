"""What is measured, each with one command: see README.md in this folder."""
