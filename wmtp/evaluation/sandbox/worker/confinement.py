"""Confine a program: what each rung of the ladder forbids.

[연구 맥락] 커널이 허락하는 것은 기계마다 다르다 (Ubuntu 24.04와 Docker의 기본 seccomp는 user namespace를 막는다).
그래서 사다리를 위에서부터 시도하고, 쓰인 단을 결과에 함께 적는다.

| 단 | 파일 | 네트워크 | 프로세스 | 남의 프로세스 |
|---|---|---|---|---|
| namespaces | 새 root: 인터프리터 읽기, /tmp 쓰기 | net namespace + seccomp | pid namespace째로 끝냄 | 보이지 않음 |
| bubblewrap | bwrap의 새 root | net namespace + seccomp | fork 거절 | signal 거절 |
| landlock | Landlock | seccomp | fork 거절 | signal 거절 |
| unsafe | 막지 않음 | seccomp (Linux) | fork 거절 (Linux) | signal 거절 (Linux) |

[동작] `enter()`는 작업자가 시작할 때, `harden()`은 zygote가 시작할 때 한 번. `fork()`, `confine()`, `clean()`은
프로그램마다. 비싼 것(Landlock, 긴 seccomp 필터)은 zygote가 한 번 입고 프로그램이 물려받는다.
위의 세 단 모두 seccomp, no_new_privs, rlimit, (있으면) Landlock을 더하고 권한을 모두 버린다.
judge도 어느 단에서나 갇힌다 (`confine_judge()`): 거기서 프로그램의 코드가 실행되는 실수가 있어도 닿는 것이 없다.
[디버깅] 단 하나를 강제하려면 `Sandbox(rung="landlock")`.
"""

import contextlib
import math
import os
import platform
import resource
import shutil
import signal
import stat
import sys
import tempfile

from . import kernel

_UNPRIVILEGED = 65534
DIRECTORY_BYTES = 64 << 20
_DIRECTORY_FILES = 4096
_STACK_BYTES = 8 << 20
_PRIVATE_MOUNT = "/private/tmp"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_FORK_IS_COUNTED_PER_NAMESPACE = (5, 14)
_JUDGE_BYTES = 2 << 30  # tests can be fed with hostile values


def readable_paths(packages: list[str]) -> list[str]:
    """List what a program may read: the standard library, shared libraries, time zones, devices, chosen packages."""
    paths = [os.path.dirname(os.__file__), os.path.join(sys.base_exec_prefix, "lib")]
    paths += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"]
    paths = [path for path in [*paths, *packages] if os.path.exists(path)]
    inside = [path for path in paths if any(path.startswith(other + "/") for other in paths)]
    return [*dict.fromkeys(path for path in paths if path not in inside), *filter(os.path.exists, _DEVICES)]


class Unsafe:
    """Run programs with resource limits, and seccomp where it works. Nothing protects the files of this user.

    seccomp이 있으면 적어도 `os.kill(-1, SIGKILL)`이 사용자의 모든 프로세스를 죽이는 일은 막는다.
    """

    name = "unsafe+seccomp" if kernel.MACHINE is not None else "unsafe"

    def __init__(self, packages: list[str]):
        self.readable = readable_paths(packages)

    def enter(self, proc: int | None) -> None:
        """Make the private directory. `proc` is a descriptor of /proc."""
        self._use(os.path.realpath(tempfile.mkdtemp(prefix=f"wmtp-sandbox-{os.getpid()}-")))

    def leave(self) -> None:
        """Remove the private directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def harden(self) -> None:
        """Take from the zygote what neither it nor a program needs; programs inherit that."""
        if self.name != "unsafe":
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
            kernel.seccomp(_FILTER_FOR_ALL)

    def fork(self) -> int:
        """Start the process of a program."""
        return os.fork() if self.name == "unsafe" else kernel.clone(0)

    def kill(self, pid: int) -> None:
        """End a program, with its process group."""
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(pid, signal.SIGKILL)

    def confine(self, limits: list) -> None:
        """Take from the calling process what a program may not have."""
        os.setsid()
        os.chdir(self.directory)
        _set_limits(limits)
        if self.name != "unsafe":
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            kernel.seccomp(_filter_among_others(os.getpid()))

    def clean(self) -> None:
        """Leave no trace of a program in the private directory."""
        os.chmod(self.directory, 0o700)
        for entry in os.scandir(self.directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, onerror=_make_removable)
            else:
                os.unlink(entry.path)
        self.remember_untouched()

    def is_touched(self) -> bool:
        """Tell whether a program has done anything in the private directory."""
        return os.stat(self.directory).st_ctime_ns != self._untouched

    def remember_untouched(self) -> None:
        """Take the private directory as it is now for untouched."""
        self._untouched = os.stat(self.directory).st_ctime_ns

    def used_bytes(self) -> int:
        """Sum up the private directory, where no file system of its own bounds it."""
        if not self.is_touched():
            return 0
        total = 0
        for folder, folders, names in os.walk(self.directory):
            for name in (*folders, *names):
                with contextlib.suppress(OSError):
                    total += (DIRECTORY_BYTES // _DIRECTORY_FILES) + os.lstat(os.path.join(folder, name)).st_size
            if total > DIRECTORY_BYTES:
                break
        return total

    def _use(self, directory: str) -> None:
        """Make a directory the private one; whatever a program does in it will show in its ctime."""
        self.directory = tempfile.tempdir = os.environ["TMPDIR"] = os.environ["HOME"] = directory
        self.remember_untouched()


class Landlocked(Unsafe):
    """Confine with Landlock, seccomp and no_new_privs; a program cannot fork, so nothing survives it."""

    name = "landlock+seccomp"

    def enter(self, proc: int | None) -> None:
        """Check what the kernel offers and make the private directory."""
        if not kernel.landlock_abi():
            raise OSError(kernel.ENOSYS, "Landlock is not available")
        if proc is None:
            raise OSError(kernel.ENOSYS, "there is no /proc")
        super().enter(proc)

    def harden(self) -> None:
        """Hold the zygote to the files that programs may use, and give up all capabilities."""
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if kernel.landlock_abi():
            kernel.landlock(kernel.landlock_rules(self.readable, [self.directory]))
        kernel.drop_capabilities()
        super().harden()


class Bubblewrapped(Landlocked):
    """Confine the whole worker by bubblewrap, which made the namespaces before this process began."""

    name = "bubblewrap+landlock+seccomp" if kernel.landlock_abi() else "bubblewrap+seccomp"

    def enter(self, proc: int | None) -> None:
        """Make the private directory; Landlock is welcome here, not needed."""
        Unsafe.enter(self, proc)


class Namespaces(Unsafe):
    """Give programs a root, a network and processes of their own; one SIGKILL ends a whole tree."""

    name = "namespaces+landlock+seccomp" if kernel.landlock_abi() else "namespaces+seccomp"

    def enter(self, proc: int | None) -> None:
        """Move this worker into new namespaces whose root holds the interpreter and nothing else."""
        if proc is None:
            raise OSError(kernel.ENOSYS, "there is no /proc")
        everything = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
        if os.geteuid() == 0:
            # Root first builds the root (an ordinary user may not read below /root), then becomes nobody.
            kernel.unshare(kernel.CLONE_NEWNS)
            _build_root(self.readable)
            os.setgroups([])
            os.setresgid(*[_UNPRIVILEGED] * 3)
            os.setresuid(*[_UNPRIVILEGED] * 3)
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or /proc/self stays root's
            _enter_user_namespace(everything, proc)
        else:
            _enter_user_namespace(everything, proc)
            _build_root(self.readable)
        self._mount()

    def leave(self) -> None:
        """Do nothing: the kernel takes the mounts away with the last process."""

    def harden(self) -> None:
        """Hold the zygote to the files that programs may use; it keeps the right to make pid namespaces."""
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if kernel.landlock_abi():
            # The rule is for the folder around the private file system, so it outlives a replacement of that.
            around = os.path.dirname(_PRIVATE_MOUNT)
            kernel.landlock(kernel.landlock_rules(self.readable, [around]))
        kernel.seccomp(_FILTER_FOR_ALL)

    def fork(self) -> int:
        """Start the process of a program as the first one of a new pid namespace."""
        return kernel.clone(kernel.CLONE_NEWPID)

    def kill(self, pid: int) -> None:
        """End a program; the kernel ends its whole pid namespace."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def confine(self, limits: list) -> None:
        """Take from the calling process what a program may not have."""
        os.chdir(self.directory)
        _set_limits(limits)
        kernel.drop_capabilities()
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.seccomp(_FILTER_IN_NAMESPACE)

    def clean(self) -> None:
        """Replace the private file system, however deep the program has nested it."""
        kernel.unmount(self.directory)
        self._mount()

    def used_bytes(self) -> int:
        """Return 0: the file system has a size of its own."""
        return 0

    def _mount(self) -> None:
        options = f"mode=0700,size={DIRECTORY_BYTES},nr_inodes={_DIRECTORY_FILES}"
        kernel.mount("tmpfs", _PRIVATE_MOUNT, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
        self._use(_PRIVATE_MOUNT)


def confine_judge() -> None:
    """Leave the judge the interpreter's files to read and the sockets that it holds, and nothing else.

    [동작] 단과 무관하게 커널에 있는 것을 모두 쓴다. judge는 남의 파일도, 제 파일도 쓰지 못하고, 소켓을 열지도,
    exec하지도, fork하지도, 남에게 신호를 보내지도 못한다.
    """
    # It lives for thousands of programs, so its CPU time is not bounded.
    limits = [(resource.RLIMIT_CORE, (0, 0)), (resource.RLIMIT_NOFILE, (256, 256))]
    if sys.platform == "linux":
        limits += [(resource.RLIMIT_AS, (_JUDGE_BYTES,) * 2), (resource.RLIMIT_FSIZE, (_JUDGE_BYTES,) * 2)]
    _set_limits(limits)
    if kernel.MACHINE is not None:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if kernel.landlock_abi():
            kernel.landlock(kernel.landlock_rules(readable_paths([]), []))
        kernel.drop_capabilities()
        kernel.seccomp(_filter_for_all(but=("memfd_create",)))
        kernel.seccomp(_filter_among_others(os.getpid()))


RUNGS = {"namespaces": Namespaces, "bubblewrap": Bubblewrapped, "landlock": Landlocked, "unsafe": Unsafe}


def other_processes() -> int:
    """Count what RLIMIT_NPROC counts beside the program: the worker's own, or all of the user on old kernels."""
    release = tuple(int("".join(filter(str.isdigit, part))) for part in platform.release().split("-")[0].split(".")[:2])
    if release >= _FORK_IS_COUNTED_PER_NAMESPACE:
        return 3
    return 3 + sum(len(os.listdir(f"/proc/{name}/task")) for name in os.listdir("/proc") if name.isdigit())


def prepare_limits(limits: dict, isolated: bool) -> list[tuple[int, tuple[int, int]]]:
    """Turn the limits of a program into resource limits, so that the forked process only has to set them."""
    memory = limits["memory_bytes"] + limits["baseline_bytes"]
    seconds = math.ceil(limits["cpu_seconds"]) + 1  # the judge ends it exactly; this is for when the judge is gone
    size = max(limits["file_bytes"], limits["output_bytes"] + 1)
    wanted = [
        (resource.RLIMIT_CPU, (seconds, seconds)),
        (resource.RLIMIT_FSIZE, (size, size)),
        (resource.RLIMIT_NOFILE, (128, 128)),
        (resource.RLIMIT_CORE, (0, 0)),
        (resource.RLIMIT_STACK, (_STACK_BYTES, resource.getrlimit(resource.RLIMIT_STACK)[1])),
    ]
    if sys.platform == "linux":  # macOS knows no limit of the address space; the rest lets describe() say MemoryError
        wanted.append((resource.RLIMIT_AS, (memory, memory + (32 << 20))))
    if isolated:
        wanted.append((resource.RLIMIT_NPROC, (limits["processes"] + limits["others"],) * 2))
    return wanted


def _set_limits(limits: list[tuple[int, tuple[int, int]]]) -> None:
    """Apply what prepare_limits() made."""
    for name, pair in limits:
        resource.setrlimit(name, pair)


def _make_removable(function, path, _) -> None:
    """Open a directory that a program has closed, then remove it."""
    with contextlib.suppress(OSError):
        os.chmod(os.path.dirname(path), 0o700)
        os.chmod(path, 0o700)
        shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else os.unlink(path)


def _enter_user_namespace(also: int, proc: int) -> None:
    """Become the owner of new namespaces, under the same user and group numbers."""
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER | also)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        descriptor = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        os.write(descriptor, text.encode())
        os.close(descriptor)


def _build_root(paths: list[str]) -> None:
    """Replace the root by one that holds these paths, read-only, and an empty /tmp."""
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    sources = [os.open(path, os.O_PATH) for path in paths]
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755,size=1m")
    for path, source in zip(paths, sources, strict=True):
        target = "/tmp" + path
        if stat.S_ISDIR(os.fstat(source).st_mode):  # by its descriptor: what lay in /tmp cannot be seen any more
            os.makedirs(target, mode=0o755, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        kernel.mount(f"/proc/self/fd/{source}", target, None, kernel.MS_BIND | kernel.MS_REC)
        if path not in _DEVICES:
            kernel.mount(
                "none", target, None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | _kept_flags(target)
            )
        os.close(source)
    os.makedirs("/tmp" + _PRIVATE_MOUNT)
    os.chdir("/tmp")
    kernel.pivot_root_here()
    os.chdir("/")
    kernel.mount("none", "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | _kept_flags("/"))


def _kept_flags(path: str) -> int:
    """Return the flags of a mount that a user namespace may not take away."""
    found = os.statvfs(path).f_flag
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | (found & kernel.MS_NOEXEC)
    return flags | (found & 1024) | (found & 2048) | ((1 << 21) if found & 4096 else 0)  # noatime, nodiratime, relatime


_REFUSED = (kernel.RETURN, 0, 0, kernel.REFUSE | kernel.EPERM)
_ALLOWED = (kernel.RETURN, 0, 0, kernel.ALLOW)


def _unless(test: int, *operands: int, argument: int) -> list:
    """Refuse a call whose argument passes the test for one of the operands."""
    body = [kernel.load_argument(argument)]
    for operand in operands:
        body += [(test, 0, 1, operand), _REFUSED]
    return [*body, _ALLOWED]


def _only_if(*operands: int, argument: int) -> list:
    """Refuse a call whose argument is none of the operands."""
    body = [kernel.load_argument(argument)]
    for operand in operands:
        body += [(kernel.JUMP_EQUAL, 0, 1, operand), _ALLOWED]
    return [*body, _REFUSED]


def _filter_for_all(but: tuple[str, ...] = ()):
    """Compile the filter that zygote, programs and judge share. It is long, so it is installed once."""
    refused = dict.fromkeys((name for name in kernel.NEVER_NEEDED if name not in but), kernel.EPERM)
    return kernel.seccomp_filter(
        {**refused, "clone3": kernel.ENOSYS},  # libc falls back to clone
        {
            "prlimit64": _only_if(0, argument=0),
            "fcntl": _unless(kernel.JUMP_EQUAL, 8, 10, 15, argument=1),  # F_SETOWN, F_SETSIG, F_SETOWN_EX and
            "ioctl": _unless(kernel.JUMP_EQUAL, 0x8901, 0x8902, argument=1),  # FIOSETOWN, SIOCSPGRP signal others
        },
    )


def _filter_in_namespace():
    """Compile what is added for a program that is the first process of its own pid namespace."""
    suicide = [kernel.load_argument(1), (kernel.JUMP_EQUAL, 1, 0, signal.SIGKILL), _ALLOWED, kernel.load_argument(0)]
    for target in (1, 0, 0xFFFFFFFF):  # the kernel lets no first process kill itself: do it for it
        suicide += [(kernel.JUMP_EQUAL, 0, 1, target), (kernel.RETURN, 0, 0, kernel.KILL)]
    # A process that ignores SIGCHLD has its dead children thrown away uncounted, and with them their CPU time: pretend
    # to have obeyed. Asking is allowed: there the address of the new action is 0, in both halves.
    sigchld = [kernel.load_argument(0), (kernel.JUMP_EQUAL, 1, 0, signal.SIGCHLD), _ALLOWED]
    for half in (kernel.load_argument(1), kernel.load_argument(1, high=True)):
        sigchld += [half, (kernel.JUMP_EQUAL, 1, 0, 0), (kernel.RETURN, 0, 0, kernel.REFUSE)]  # errno 0
    conditions = {
        "prctl": _unless(kernel.JUMP_EQUAL, kernel.PR_SET_PDEATHSIG, argument=0),  # it has to die with the zygote
        "clone": _unless(kernel.JUMP_ANY_BIT, kernel.CLONE_NEW_ANYTHING, argument=0),
        "rt_sigaction": [*sigchld, _ALLOWED],
        "kill": [*suicide, _ALLOWED],
    }
    return kernel.seccomp_filter({}, conditions)


def _filter_among_others(pid: int):
    """Compile what is added for a program that shares its pid namespace: threads yes, processes and signals no."""
    threads = [kernel.load_argument(0), (kernel.JUMP_ANY_BIT, 0, 1, kernel.CLONE_THREAD), _ALLOWED, _REFUSED]
    conditions = {
        "prctl": _unless(kernel.JUMP_EQUAL, kernel.PR_SET_PDEATHSIG, argument=0),
        "clone": threads,
        "kill": _only_if(pid, argument=0),
        "tgkill": _only_if(pid, argument=0),
    }
    return kernel.seccomp_filter(dict.fromkeys(kernel.REACHES_OTHERS, kernel.EPERM), conditions)


if kernel.MACHINE is not None:
    _FILTER_FOR_ALL, _FILTER_IN_NAMESPACE = _filter_for_all(), _filter_in_namespace()
