"""The training loop, written against ports: it runs on Ray actors and on in-process fakes."""
