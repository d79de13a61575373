package sandbox_test

import (
	"fmt"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOnlyItsOwnLimitsAreItsToChange(t *testing.T) {
	bystander := exec.Command("/bin/sleep", "60")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = bystander.Process.Kill()
		_ = bystander.Wait()
	}()
	c := newCell(t)
	c.policy.Vars["VICTIM"] = fmt.Sprint(bystander.Process.Pid)
	out, err := c.py(t, fmt.Sprintf(`
import ctypes, os, resource
victim, libc = int(os.environ["VICTIM"]), ctypes.CDLL(None, use_errno=True)
def ioprio(which, pid):
    if libc.syscall(%d, which, pid, 3 << 13) != 0: raise OSError(ctypes.get_errno(), "")
acts = {
    "limits": lambda p: resource.prlimit(p, resource.RLIMIT_NOFILE, (64, 64)),
    "priority": lambda p: os.setpriority(os.PRIO_PROCESS, p, 19),
    "processors": lambda p: os.sched_setaffinity(p, os.sched_getaffinity(p)),
    "scheduler": lambda p: os.sched_setscheduler(p, os.SCHED_BATCH, os.sched_param(0)),
    "disk": lambda p: ioprio(1, p),
}
for name, act in acts.items():
    act(0) # its own
    try: act(victim); print("changed", name)
    except OSError: pass
for name, act in {"user": lambda: os.setpriority(os.PRIO_USER, 0, 19), "disk of the user": lambda: ioprio(3, 0)}.items():
    try: act(); print("changed", name)
    except OSError: pass
print("end")`, unix.SYS_IOPRIO_SET))
	if err != nil || out != "end\n" {
		t.Errorf("got %q, %v", out, err)
	}
}
