package pyenv

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"loadline.dev/loadline/serving"
)

// compileScript compiles each file named on its input and says how many.
const compileScript = `import sys, py_compile
n = 0
for path in sys.stdin.buffer.read().split(b"\0"):
    try:
        py_compile.compile(path.decode(), doraise=True)
        n += 1
    except Exception:
        pass
print(n)`

// Compile writes the bytecode of sources, which are files of the environment;
// others are passed over. Without it each start compiles them again, at three
// times the CPU.
//
// Only the standard library runs here. A model's own first load could write
// bytecode too, but then outsiders' code would have to be able to change files
// that other models, and through hard links uv's whole cache, are made of.
func (b *Builder) Compile(ctx context.Context, env serving.Environment, sources []string) (int, error) {
	root, err := filepath.EvalSymlinks(filepath.Join(env.Dir, "lib"))
	if err != nil {
		return 0, err
	}
	var list []string
	for _, source := range sources {
		real, err := filepath.EvalSymlinks(source)
		if err == nil && strings.HasSuffix(real, ".py") && strings.HasPrefix(real, root+"/") {
			list = append(list, filepath.Clean(source))
		}
	}
	if len(list) == 0 {
		return 0, nil
	}
	cmd := exec.CommandContext(ctx, filepath.Join(env.Dir, "bin", "python"), "-I", "-S", "-c", compileScript)
	cmd.Dir, cmd.Env = env.Dir, []string{"LANG=C.UTF-8"}
	cmd.Stdin = strings.NewReader(strings.Join(list, "\x00"))
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("write bytecode: %w", err)
	}
	var n int
	_, err = fmt.Sscan(string(out), &n)
	return n, err
}
