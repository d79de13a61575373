package sandbox

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock knows TCP ports and, in newer kernels, UDP. The filter closes what
// is left: other socket families, Multipath TCP, TCP Fast Open, connecting to
// other people's Unix sockets, and the calls that reach around both.

// Offsets into struct seccomp_data.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// Actions of the filter.
const (
	allow      = unix.SECCOMP_RET_ALLOW
	refuse     = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	refuseNet  = unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)
	pretendOld = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// refused lists calls that a model has no business making. Most need
// privileges anyway; refusing them here keeps the kernel's less trodden paths
// out of reach.
var refused = []uint32{
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, // would do the rest unseen
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT,
	unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSMOUNT, unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_KEYCTL, unix.SYS_KEXEC_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_SETTIMEOFDAY,
	unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_SYSLOG,
}

// ownOnly lists calls that change how a process runs, and the argument that
// says which one: zero is the caller itself. Landlock does not stop them from
// reaching every process of the same user, the server included.
var ownOnly = []struct{ call, arg uint32 }{
	{unix.SYS_PRLIMIT64, 0}, {unix.SYS_SETPRIORITY, 0}, {unix.SYS_SETPRIORITY, 1}, {unix.SYS_IOPRIO_SET, 1},
	{unix.SYS_SCHED_SETAFFINITY, 0}, {unix.SYS_SCHED_SETSCHEDULER, 0}, {unix.SYS_SCHED_SETPARAM, 0}, {unix.SYS_SCHED_SETATTR, 0},
}

const newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// installFilter puts the filter on this thread.
func installFilter(n Network) error {
	if auditArch == 0 {
		return nil // a machine whose calls we do not know; Probe says so
	}
	code := program(n)
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}

// program is the filter for n: each block either answers or falls to the next.
func program(n Network) []unix.SockFilter {
	var f filter
	f.load(offsetArch)
	f.ifNot(auditArch, pretendOld)
	f.load(offsetCall)
	if x32Bit != 0 {
		f.ifAtLeast(x32Bit, pretendOld) // the other calling convention of the same kernel
	}
	for _, call := range refused {
		f.ifIs(call, refuse)
	}
	for _, c := range ownOnly {
		f.onCall(c.call, func(f *filter) {
			f.load(offsetArgs + 8*c.arg)
			f.ifNot(0, refuse)
			f.load(offsetCall)
		})
	}
	f.onCall(unix.SYS_IOPRIO_SET, func(f *filter) {
		f.load(offsetArgs)
		f.ifNot(1, refuse) // IOPRIO_WHO_PROCESS
		f.answer(allow)
	})
	f.ifIs(unix.SYS_CLONE3, pretendOld) // its flags are out of sight; C libraries fall back to clone
	f.onCall(unix.SYS_CLONE, func(f *filter) {
		f.load(offsetArgs)
		f.ifAny(newNamespaces, refuse)
		f.answer(allow)
	})
	if n != Open {
		f.ifIs(unix.SYS_CONNECT, refuseNet)
		f.ifFlag(unix.SYS_SENDTO, 3, unix.MSG_FASTOPEN)
		f.ifFlag(unix.SYS_SENDMSG, 2, unix.MSG_FASTOPEN)
		f.ifFlag(unix.SYS_SENDMMSG, 3, unix.MSG_FASTOPEN)
	}
	f.onCall(unix.SYS_SOCKET, func(f *filter) { socketRules(f, n) })
	f.answer(allow)
	return f.code
}

func socketRules(f *filter, n Network) {
	if n == Open {
		f.load(offsetArgs)
		// No Unix sockets: connecting to one by its path is no access to a file that
		// Landlock would see, and other replicas' agents listen on them.
		for _, family := range []uint32{unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK} {
			f.ifIs(family, allow)
		}
		f.answer(refuseNet)
		return
	}
	if n == None {
		f.load(offsetArgs)
		f.ifNot(unix.AF_UNIX, refuseNet)
	} else {
		f.load(offsetArgs)
		f.skipUnless([]uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6})
	}
	// Streams only: a datagram needs no connection to reach a stranger.
	f.load(offsetArgs + 8)
	f.mask(0xf)
	f.ifNot(unix.SOCK_STREAM, refuseNet)
	f.load(offsetArgs + 16)
	f.ifIs(0, allow)
	f.ifIs(unix.IPPROTO_TCP, allow)
	f.answer(refuseNet)
}

// A filter is a program under construction.
type filter struct{ code []unix.SockFilter }

func (f *filter) add(code uint16, k uint32, yes, no uint8) {
	f.code = append(f.code, unix.SockFilter{Code: code, K: k, Jt: yes, Jf: no})
}

func (f *filter) load(offset uint32)   { f.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }
func (f *filter) mask(bits uint32)     { f.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, bits, 0, 0) }
func (f *filter) answer(action uint32) { f.add(unix.BPF_RET|unix.BPF_K, action, 0, 0) }

const jump = unix.BPF_JMP | unix.BPF_K

func (f *filter) ifIs(k, action uint32) {
	f.add(jump|unix.BPF_JEQ, k, 0, 1)
	f.answer(action)
}

func (f *filter) ifNot(k, action uint32) {
	f.add(jump|unix.BPF_JEQ, k, 1, 0)
	f.answer(action)
}

func (f *filter) ifAtLeast(k, action uint32) {
	f.add(jump|unix.BPF_JGE, k, 0, 1)
	f.answer(action)
}

func (f *filter) ifAny(bits, action uint32) {
	f.add(jump|unix.BPF_JSET, bits, 0, 1)
	f.answer(action)
}

// skipUnless refuses every value but these.
func (f *filter) skipUnless(values []uint32) {
	for i, v := range values {
		f.add(jump|unix.BPF_JEQ, v, uint8(len(values)-i), 0)
	}
	f.answer(refuseNet)
}

// ifFlag refuses call when its argument arg has the bits.
func (f *filter) ifFlag(call, arg, bits uint32) {
	f.onCall(call, func(f *filter) {
		f.load(offsetArgs + 8*arg)
		f.ifAny(bits, refuseNet)
		f.answer(allow)
	})
}

// onCall runs body for call alone; it ends in an answer or with the call's
// number loaded again, as it is for what follows.
func (f *filter) onCall(call uint32, body func(*filter)) {
	var inner filter
	body(&inner)
	f.add(jump|unix.BPF_JEQ, call, 0, uint8(len(inner.code)))
	f.code = append(f.code, inner.code...)
}
