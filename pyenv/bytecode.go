package pyenv

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"loadline.dev/loadline/serving"
)

// compileScript compiles each file named on a line of its input and says at
// the end how many. One that does not compile is its package's own affair.
const compileScript = `import sys, py_compile
n = 0
for line in sys.stdin.buffer:
    try:
        py_compile.compile(line[:-1].decode("utf-8", "surrogateescape"), doraise=True)
        n += 1
    except Exception:
        pass
print(n)`

// Compile writes the bytecode of sources, as they come, until there are no
// more. Those that are not files of the environment are passed over. Without
// bytecode each start compiles them again, at three times the CPU.
//
// Only the standard library runs here. A model's own first load could write
// bytecode too, but then outsiders' code would have to be able to change files
// that other models, and through hard links uv's whole cache, are made of.
func (b *Builder) Compile(ctx context.Context, env serving.Environment, sources <-chan string) (int, error) {
	root, err := filepath.EvalSymlinks(filepath.Join(env.Dir, "lib"))
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(env.Dir, "bin", "python"), "-I", "-S", "-c", compileScript)
	cmd.Dir, cmd.Env = env.Dir, []string{"LANG=C.UTF-8"}
	var out bytes.Buffer
	cmd.Stdout = &out
	var in io.WriteCloser
	for source := range sources {
		real, err := filepath.EvalSymlinks(source)
		if err != nil || !strings.HasSuffix(real, ".py") || !strings.HasPrefix(real, root+"/") || strings.Contains(source, "\n") {
			continue
		}
		if in == nil { // only once there is something to do
			if in, err = cmd.StdinPipe(); err == nil {
				err = cmd.Start()
			}
			if err != nil {
				return 0, fmt.Errorf("write bytecode: %w", err)
			}
			defer in.Close()
			// What loads the model is to have the processor first.
			_ = syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, 5)
		}
		if _, err := io.WriteString(in, filepath.Clean(source)+"\n"); err != nil {
			break // it has died; Wait says of what
		}
	}
	if in == nil {
		return 0, nil
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("write bytecode: %w", err)
	}
	var n int
	_, err = fmt.Fscan(&out, &n)
	return n, err
}
