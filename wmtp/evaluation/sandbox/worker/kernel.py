"""Call the kernel features that the standard library does not wrap.

[동작] ctypes로 부르는 얇은 껍질이다: clone, unshare, mount, Landlock, seccomp, prctl, capset.
실패하면 언제나 `OSError`이고, 어떤 것을 어떻게 쓸지는 confinement.py가 정한다.
"""

import ctypes
import os
import platform
import signal
import struct
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP, CLONE_NEWTIME = 0x20000000, 0x40000000, 0x02000000, 0x00000080
CLONE_THREAD = 0x00010000
CLONE_NEW_ANYTHING = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER
CLONE_NEW_ANYTHING |= CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP | CLONE_NEWTIME

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38

# System calls by name: (x86_64, aarch64); None where the architecture has no such call.
_CALLS = {
    "clone": (56, 220), "clone3": (435, 435), "fork": (57, None), "vfork": (58, None), "pivot_root": (155, 41),
    "capset": (126, 91), "prctl": (157, 167), "fcntl": (72, 25), "ioctl": (16, 29), "rt_sigaction": (13, 134),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "prlimit64": (302, 261), "setpriority": (141, 140),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30), "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
}  # fmt: skip
#: What changes files without opening them, which Landlock does not see.
_CHANGES_FILES = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "truncate": (76, 45),
}  # fmt: skip
#: What no program that is judged has any business with, nor the zygote.
NEVER_NEEDED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "mount": (165, 40), "umount2": (166, 39),
    "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "syslog": (103, 116), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
    "vhangup": (153, 58), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "personality": (135, 92), "fanotify_init": (300, 262), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "migrate_pages": (256, 238), "move_pages": (279, 239), "execve": (59, 221),
    "execveat": (322, 281), "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197), "semget": (64, 190),
    "semop": (65, 193), "semctl": (66, 191), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180),
}  # fmt: skip
SYSCALLS = {**_CALLS, **_CHANGES_FILES, **NEVER_NEEDED}
#: What would reach processes and files of others where they are in sight.
REACHES_OTHERS = (
    *("fork", "vfork", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "setpriority", "ioprio_set"),
    *("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr", *_CHANGES_FILES),
)
#: Calls newer than this are unknown to us and so refused with ENOSYS, which every libc expects from an old kernel.
LAST_KNOWN_SYSCALL = 462

MACHINE = {"x86_64": 0, "aarch64": 1}.get(platform.machine()) if sys.platform == "linux" else None
AUDIT_ARCH = (0xC000003E, 0xC00000B7)

# PyDLL keeps the GIL: nothing of the interpreter may be in motion when clone copies it.
libc = ctypes.PyDLL(None, use_errno=True)
_raw_syscall = libc["syscall"]
_raw_syscall.restype, _raw_syscall.argtypes = ctypes.c_long, [ctypes.c_long] * 7


def syscall(name: str, *arguments) -> int:
    """Make one system call by name; raise OSError where it fails."""
    zeros = (0,) * (6 - len(arguments))
    return checked(_raw_syscall(SYSCALLS[name][machine()], *arguments, *zeros), name)


def machine() -> int:
    """Return which column of the tables is this machine's; raise OSError where none is."""
    if MACHINE is None:
        raise OSError(38, f"no system call table for {platform.machine()}")
    return MACHINE


def checked(result: int, name: str) -> int:
    """Turn a libc result of -1 into an OSError that names the call."""
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def clone(flags: int) -> int:
    """Fork into the new namespaces that `flags` ask for.

    os.fork()가 자식에서 하는 일(다른 스레드의 잠금을 되돌리는 것)은 하지 않는다: zygote에는 스레드가 하나뿐이라
    되돌릴 것이 없고, 그 일이 건드리는 메모리 200쪽의 복사가 fork 자체보다 비싸다.
    """
    return syscall("clone", flags | signal.SIGCHLD)


def prctl(option: int, value: int = 0) -> None:
    """Set one attribute of this process."""
    syscall("prctl", option, value)


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    checked(libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    """Put a file system in its place, as the system call does."""
    encoded = [text.encode() if text is not None else None for text in (source, target, kind)]
    checked(libc.mount(*encoded, ctypes.c_ulong(flags), options.encode()), "mount")


def unmount(target: str) -> None:
    """Detach a mount."""
    checked(libc.umount2(target.encode(), MNT_DETACH), "umount2")


def pivot_root_here() -> None:
    """Make the current directory the root and let go of the old one."""
    here = ctypes.create_string_buffer(b".")
    syscall("pivot_root", ctypes.addressof(here), ctypes.addressof(here))
    unmount(".")


_CAPABILITY_HEADER = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0), 8)
_NO_CAPABILITIES = ctypes.create_string_buffer(24)


def drop_capabilities() -> None:
    """Give up every capability; no_new_privs and the ban on exec keep them from coming back."""
    syscall("capset", ctypes.addressof(_CAPABILITY_HEADER), ctypes.addressof(_NO_CAPABILITIES))


# Landlock: which rights exist depends on the ABI of the kernel.
READ, WRITE, EXECUTE = (1 << 2) | (1 << 3), (1 << 1) | (1 << 14), 1 << 0
FILE_RIGHTS = (1 << 0) | (1 << 1) | (1 << 2) | (1 << 14)


def landlock_abi() -> int:
    """Return the Landlock version of this kernel, 0 where there is none."""
    try:
        return syscall("landlock_create_ruleset", 0, 0, 1)
    except OSError:
        return 0


def landlock_rules(readable: list[str], writable: list[str]) -> int:
    """Build rules that allow these paths and no others; return their descriptor."""
    abi = landlock_abi()
    rights = (1 << 13) - 1
    rights |= (1 << 13) * (abi >= 2) | (1 << 14) * (abi >= 3) | (1 << 15) * (abi >= 5)
    network, scopes = 3 * (abi >= 4), 3 * (abi >= 6)
    attributes = struct.pack("<QQQ", rights, network, scopes)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    rules = syscall("landlock_create_ruleset", ctypes.addressof(buffer), len(attributes), 0)
    os.set_inheritable(rules, False)
    wanted = [(path, READ if path != os.devnull else READ | WRITE) for path in readable]
    for path, allowed in wanted + [(path, rights & ~EXECUTE) for path in writable]:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            allowed &= FILE_RIGHTS & rights
        rule = ctypes.create_string_buffer(struct.pack("<Qi", allowed, descriptor), 12)
        syscall("landlock_add_rule", rules, 1, ctypes.addressof(rule), 0)
        os.close(descriptor)
    return rules


def landlock(rules: int) -> None:
    """Hold this process and all it starts to the rules, for good."""
    syscall("landlock_restrict_self", rules, 0)


# seccomp: a filter is a list of (code, jump if true, jump if false, operand).
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, EACCES, ENOSYS = 1, 13, 38


def load_argument(index: int, high: bool = False) -> tuple[int, int, int, int]:
    """Load one half of an argument of the system call."""
    return (LOAD, 0, 0, 16 + 8 * index + 4 * high)


def seccomp_filter(refused: dict[str, int], conditions: dict[str, list[tuple[int, int, int, int]]]):
    """Compile a filter: calls refused with an errno, and calls with conditions of their own.

    Args:
        refused: 시스템 호출의 이름 → errno. 언제나 거절한다.
        conditions: 이름 → 그 호출의 인자를 보는 명령들. RETURN으로 끝나야 한다.

    Returns:
        seccomp()에 넘길 것. 메모리 배치까지 되어 있어서 넘길 때 할 일이 없다.
    """
    here = machine()
    program = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, AUDIT_ARCH[here]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    program += [(JUMP_AT_LEAST, 0, 1, LAST_KNOWN_SYSCALL + 1), (RETURN, 0, 0, REFUSE | ENOSYS)]
    for name, error in refused.items():
        number = SYSCALLS[name][here]
        if number is not None:
            program += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | error)]
    for name, body in conditions.items():
        number = SYSCALLS[name][here]
        if number is not None:
            program += [(JUMP_EQUAL, 0, len(body), number), *body]
    program.append((RETURN, 0, 0, ALLOW))
    compiled = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    instructions = ctypes.create_string_buffer(compiled, len(compiled))
    head: Any = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(instructions)))
    head.keeps = instructions
    return head


def seccomp(compiled) -> None:
    """Hold this process and all it starts to the filter, for good."""
    syscall("prctl", PR_SET_SECCOMP, 2, ctypes.addressof(compiled))
