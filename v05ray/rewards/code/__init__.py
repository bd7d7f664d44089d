"""Code tasks: programs out of responses, run against tests in a sandbox.

- `references`   what the tests of a row are: input and output, calls, asserts
- `extraction`   the program in a response
- `comparison`   whether what a program gave is what was expected
- `sandbox`      a process for one program, and what the kernel forbids it
- `verifier`     the `code` verifier over these
- `inside`       what runs in the sandbox's own processes
"""
