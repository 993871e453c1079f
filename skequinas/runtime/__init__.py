"""The process that a fit runs in, the devices it can use, and what is installed. Knows no other room."""
