"""What runs in the sandbox's own processes: the standard library alone, and no import of the rest of the package.

`serve` is started as a file by `python -I -S`, whose path holds neither the package nor what is installed.

- `serve`     the process that lasts as long as one response: forks a child for each test, kills it at its limits
- `kernel`    what the kernel forbids a child: Landlock, seccomp, limits, namespaces
- `program`   the children that run the program
- `asserts`   the child that runs a task's tests, which calls the program's functions in another process
- `peer`      those calls
- `wire`      values as JSON
"""
