package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsyscall "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// executable is the binary that runs now, even if its file was replaced since.
func executable() (string, error) { return "/proc/self/exe", nil }

// systemRead is what programs of any kind need. /etc is listed file by file:
// it also holds keys.
var systemRead = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store",
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/alternatives",
	"/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf",
	"/etc/nsswitch.conf", "/etc/gai.conf", "/etc/protocols", "/etc/services", "/etc/passwd", "/etc/group",
	"/etc/localtime", "/etc/timezone", "/etc/mime.types", "/etc/os-release", "/etc/debian_version",
	"/etc/fonts", "/etc/locale.alias", "/etc/OpenCL", "/etc/vulkan", "/etc/python3", "/etc/python3.11",
	"/proc", "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage",
	"/dev/urandom", "/dev/random",
}

// systemWrite is what programs write to without leaving anything.
var systemWrite = []string{"/dev/null", "/dev/zero", "/dev/full"}

// confine takes from this thread all that o does not grant. The thread then
// becomes the program, and the process's other threads end with that.
func confine(o order) error {
	runtime.LockOSThread()
	if err := join(o.Group); err != nil {
		return err
	}
	// If memory runs out, a model goes before the server that keeps it.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0) // where refused, the kernel's own choice stands
	if err := setLimits(o.Policy); err != nil {
		return err
	}
	if err := standIn(o); err != nil {
		return err
	}
	if privateShm(o.Policy.Memory) {
		o.Policy.Write = append(o.Policy.Write, shm)
	}
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if err := restrict(o.Policy); err != nil {
		return err
	}
	return installFilter(o.Policy.Network)
}

// standIn sets resource limits where no control group holds a limit. They
// count reservations, and processes per user, so they are only a brake.
func standIn(o order) error {
	if m := o.Policy.Memory; m > 0 && !o.Group.Memory {
		if err := lower(unix.RLIMIT_DATA, uint64(m)); err != nil {
			return fmt.Errorf("limit memory: %w", err)
		}
	}
	if n := o.Policy.Processes; n > 0 && !o.Group.Processes {
		if err := lower(unix.RLIMIT_NPROC, uint64(n+userThreads())); err != nil {
			return fmt.Errorf("limit processes: %w", err)
		}
	}
	return nil
}

// shm is where processes of all users share memory, and where semaphores lie.
const shm = "/dev/shm"

// privateShm gives the process a /dev/shm of its own, which Python's
// multiprocessing and joblib need to use several processors. It takes the
// right to mount; without it there is none, and libraries do without.
func privateShm(memory int64) bool {
	if unix.Unshare(unix.CLONE_NEWNS) != nil {
		return false
	}
	if unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") != nil {
		return false
	}
	size := int64(1 << 30)
	if memory > 0 {
		size = min(size, memory/2)
	}
	return unix.Mount("tmpfs", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=1777", size)) == nil
}

// userThreads counts the threads that run now: the process limit counts those
// of its whole user.
func userThreads() int {
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*")
	return len(tasks)
}

// dropCapabilities makes a root user an ordinary one that owns its files.
func dropCapabilities() error {
	if os.Geteuid() != 0 {
		return nil
	}
	for c := uintptr(0); c <= 63; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			break // past the last one that this kernel knows, or not allowed to: the next call then decides
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&head, &none[0])
}

// landlockABI is the version of Landlock in this kernel; zero is none.
func landlockABI() int {
	v, err := llsyscall.LandlockGetABIVersion()
	if err != nil || v < 0 {
		return 0
	}
	return v
}

var landlockByABI = []landlock.Config{{}, landlock.V1, landlock.V2, landlock.V3, landlock.V4, landlock.V5,
	landlock.V6, landlock.V7, landlock.V8, landlock.V9, landlock.V10, landlock.V11}

// restrict takes this thread's access to files and the network. It asks the
// kernel itself rather than through go-landlock's Restrict: that one wants all
// threads of the process, which Go cannot reach in a program that loads C
// libraries, and only this one becomes the program.
func restrict(p Policy) error {
	abi := min(landlockABI(), len(landlockByABI)-1)
	if abi == 0 {
		return nil // Probe says so, and who requires it does not start
	}
	config := landlockByABI[abi]
	if p.Network == Open {
		config.HandledAccessNet = 0
	}
	fd, err := llsyscall.LandlockCreateRuleset(&llsyscall.RulesetAttr{HandledAccessFS: uint64(config.HandledAccessFS),
		HandledAccessNet: uint64(config.HandledAccessNet), Scoped: uint64(config.Scoped)}, 0)
	if err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	defer unix.Close(fd)
	for _, path := range slices.Concat(systemRead, p.Read) {
		if err := grant(fd, path, readAccess&uint64(config.HandledAccessFS)); err != nil {
			return err
		}
	}
	for _, path := range slices.Concat(systemWrite, p.Write) {
		if err := grant(fd, path, (readAccess|writeAccess)&uint64(config.HandledAccessFS)); err != nil {
			return err
		}
	}
	if p.Network == Loopback && abi >= 4 {
		for _, port := range p.Ports {
			rule := llsyscall.NetPortAttr{AllowedAccess: llsyscall.AccessNetBindTCP, Port: uint64(port)}
			if err := llsyscall.LandlockAddNetPortRule(fd, &rule, 0); err != nil {
				return fmt.Errorf("landlock: port %d: %w", port, err)
			}
		}
	}
	if err := llsyscall.LandlockRestrictSelf(fd, 0); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return nil
}

// Rights on folders and what lies in them, on single files, and on devices:
// renaming from one folder to another is a right of folders, and isatty asks an
// ioctl of /dev/null.
const (
	readAccess  = llsyscall.AccessFSExecute | llsyscall.AccessFSReadFile | llsyscall.AccessFSReadDir
	writeAccess = llsyscall.AccessFSWriteFile | llsyscall.AccessFSRemoveDir | llsyscall.AccessFSRemoveFile |
		llsyscall.AccessFSMakeChar | llsyscall.AccessFSMakeDir | llsyscall.AccessFSMakeReg | llsyscall.AccessFSMakeSock |
		llsyscall.AccessFSMakeFifo | llsyscall.AccessFSMakeBlock | llsyscall.AccessFSMakeSym | llsyscall.AccessFSTruncate |
		llsyscall.AccessFSRefer | llsyscall.AccessFSIoctlDev
	fileAccess = llsyscall.AccessFSExecute | llsyscall.AccessFSReadFile | llsyscall.AccessFSWriteFile | llsyscall.AccessFSTruncate
)

// grant adds to a ruleset what may be done with path and what lies below it. A
// path that does not exist is passed over.
func grant(ruleset int, path string, access uint64) error {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	switch {
	case info.IsDir():
		access &^= llsyscall.AccessFSIoctlDev
	case info.Mode()&os.ModeDevice != 0:
		access &= fileAccess | llsyscall.AccessFSIoctlDev
	default:
		access &= fileAccess
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("landlock: open %s: %w", path, err)
	}
	defer unix.Close(fd)
	err = llsyscall.LandlockAddPathBeneathRule(ruleset, &llsyscall.PathBeneathAttr{AllowedAccess: access, ParentFd: fd}, 0)
	if err != nil {
		return fmt.Errorf("landlock: allow %s: %w", path, err)
	}
	return nil
}
