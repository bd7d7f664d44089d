"""The only room (with `launch.py`) that knows Ray: each actor is a shell around a class of another room."""
