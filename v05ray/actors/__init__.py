"""The room that knows Ray (as does `launch/`): each actor is a shell around a class of another room."""
