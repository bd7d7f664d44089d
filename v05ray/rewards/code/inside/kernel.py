"""What the kernel forbids a process that runs a program: by Landlock, seccomp, limits and namespaces. Linux only.

Landlock hides files, seccomp forbids sockets, new processes, signals and the rarer interfaces of the kernel. Neither
needs a privilege. A user and a network namespace of its own are a second wall where the kernel gives them.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
from collections.abc import Mapping, Sequence

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_NEW_IPC, _NEW_USER, _NEW_NET = 0x08000000, 0x10000000, 0x40000000
_EPERM, _ENOSYS = 1, 38

_MACHINES = {
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
}
"""The audit architecture, and the column of `_FORBIDDEN`."""
_NONE = -1
_FORBIDDEN: Mapping[str, tuple[int, int]] = {
    # network; io_uring makes sockets that this filter would not see
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    # processes; `clone` is looked at below, for threads are allowed
    "fork": (57, _NONE),
    "vfork": (58, _NONE),
    "execve": (59, 221),
    "execveat": (322, 281),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    # other processes
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    # what of files Landlock lets through
    "truncate": (76, 45),
    "chmod": (90, _NONE),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, _NONE),
    "fchown": (93, 55),
    "lchown": (94, _NONE),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "utime": (132, _NONE),
    "utimes": (235, _NONE),
    "futimesat": (261, _NONE),
    "utimensat": (280, 88),
    # what outlives a process
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # the kernel itself
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "syslog": (103, 116),
}
_CLONE, _CLONE3, _PRLIMIT = (56, 220), (435, 435), (302, 261)
_CLONE_THREAD = 0x00010000
_FORBIDDEN_ARGUMENTS: Mapping[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {
    # a process that outlives its parent
    "prctl": ((157, 167), 0, (_PR_SET_PDEATHSIG,)),
    # F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP, TIOCSTI: signals by way of a pipe, and keys by a terminal
    "fcntl": ((72, 25), 1, (8, 10, 15)),
    "ioctl": ((16, 29), 1, (0x8901, 0x8902, 0x5412)),
}
"""Calls that fail for some values of an argument: numbers of the call, place of the argument, values."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


class Missing(OSError):
    """The kernel does not give a part of the sandbox; the message says which."""


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise Missing(number, f"{what}: {os.strerror(number)}")
    return result


def die_with_parent() -> None:
    """Asks for SIGKILL when the parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")


def leave_network() -> None:
    """Moves this process into a user, a network and an IPC namespace of its own; raises `Missing` where it may not."""
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def has_threads_of_its_own() -> bool:
    """Whether RLIMIT_NPROC counts in a user namespace on its own (Linux 5.14), and not all that the user runs."""
    major, minor = (int("".join(filter(str.isdigit, part))) for part in platform.release().split(".")[:2])
    return (major, minor) >= (5, 14)


def drop_privileges() -> None:
    """No capability, and none to be got."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    header = struct.pack("=Ii", 0x20080522, 0)
    _check(_libc.capset(header, bytes(24)), "capset")


# Landlock: numbers of the system calls are the same on all machines.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _WRITE_FILE, _READ_DIR, _TRUNCATE = 1 << 2, 1 << 1, 1 << 3, 1 << 14
_ALL_BY_VERSION = (0, (1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)
_ALL_OF_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE


def file_rules(readable: Sequence[str], writable: Sequence[str]) -> int:
    """A descriptor of rules for `hide_files`: reading below some paths, anything below others, nothing elsewhere.

    Raises `Missing` where the kernel has no Landlock.
    """
    version = _check(_libc.syscall(_CREATE_RULESET, None, 0, 1), "Landlock")
    handled = _ALL_BY_VERSION[min(version, 5)]
    # From version 4 on also TCP, from 6 on abstract sockets and signals to processes outside.
    attributes = struct.pack("=QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = _check(_libc.syscall(_CREATE_RULESET, attributes[:size], size, 0), "Landlock")
    for paths, rights in ((readable, _READ_FILE | _READ_DIR), (writable, handled & ~(1 << 0))):
        for path in paths:
            _allow(rules, path, rights)
    return rules


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= _ALL_OF_FILES
        _check(_libc.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", rights, found), 0), f"Landlock on {path}")
    finally:
        os.close(found)


def hide_files(rules: int) -> None:
    """Applies the rules to this process and what it starts; needs `drop_privileges` before."""
    _check(_libc.syscall(_RESTRICT_SELF, rules, 0), "Landlock")


def forbid_calls() -> None:
    """Applies the filter of system calls; needs `drop_privileges` before. Raises `Missing` on unknown machines."""
    code = _filter(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0), "seccomp")


def _filter(machine: str) -> bytes:
    """The BPF program: each forbidden call fails with EPERM, `clone3` with ENOSYS so that libc takes `clone`."""
    if machine not in _MACHINES:
        raise Missing(_ENOSYS, f"seccomp: no table of system calls for {machine}")
    architecture, column = _MACHINES[machine]
    refuse = (_RETURN, 0, 0, _ERROR | _EPERM)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":  # the x32 calls, which are the same ones under other numbers
        code += [(_AT_LEAST, 0, 1, 0x40000000), refuse]
    code += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERROR | _ENOSYS)]
    for numbers in _FORBIDDEN.values():
        if numbers[column] != _NONE:
            code += [(_EQUAL, 0, 1, numbers[column]), refuse]
    allow = (_RETURN, 0, 0, _ALLOW)
    # (call, test of its first argument); the test jumps over one instruction where the call is allowed
    for number, test in ((_CLONE, (_ANY_BIT, 1, 0, _CLONE_THREAD)), (_PRLIMIT, (_EQUAL, 1, 0, 0))):
        code += [(_EQUAL, 0, 4, number[column]), (_LOAD, 0, 0, _ARGUMENTS), test, refuse, allow]
    for number, place, values in _FORBIDDEN_ARGUMENTS.values():
        code += [(_EQUAL, 0, 2 * len(values) + 2, number[column]), (_LOAD, 0, 0, _ARGUMENTS + 8 * place)]
        code += [one for value in values for one in ((_EQUAL, 0, 1, value), refuse)]
        code.append(allow)
    code.append(allow)
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def limit(limits: Mapping[str, int], *, bound_threads: bool) -> None:
    """Sets the limits of this process, as far as they are not lower already."""
    cpu = limits["cpu_seconds"]
    wanted = {
        # A program may ignore the SIGXCPU of the first number; the second is a SIGKILL.
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_AS: (limits["memory_mib"] * 2**20,) * 2,
        resource.RLIMIT_FSIZE: (limits["file_mib"] * 2**20,) * 2,
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_MEMLOCK: (0, 0),
    }
    if bound_threads:
        wanted[resource.RLIMIT_NPROC] = (64, 64)
    for kind, (soft, hard) in wanted.items():
        _, highest = resource.getrlimit(kind)
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        resource.setrlimit(kind, (soft, hard))
