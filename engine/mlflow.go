package engine

import (
	"strconv"
	"strings"

	"loadline.dev/loadline/serving"
)

// mlflow starts MLflow's own scoring server, one process, on loopback. It is
// started as `mlflow models serve` would, less the process that only waits.
func mlflow(f Facts) (Choice, error) {
	if f.Env.Dir == "" || f.Model == "" {
		return Choice{}, refuse("engine mlflow needs an environment and a model")
	}
	v := pythonVars(f, bin(f.Env)+":"+systemPath)
	v["__pyfunc_model_path__"] = fileURI(f.Model) // where MLflow's app looks for the model
	v["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
	argv := []string{bin(f.Env) + "/python", "-I", "-m"}
	if asgi(f.Env.MLflow) {
		argv = append(argv, "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1", "mlflow.pyfunc.scoring_server.app:app")
		// MLflow's own limit is 60 s; the deadline here is the agent's.
		if _, set := f.Vars["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"]; !set {
			v["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = "86400"
		}
	} else {
		argv = append(argv, "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "1", "--timeout", "0",
			"--worker-tmp-dir", "{dir}/work", "mlflow.pyfunc.scoring_server.wsgi:app")
	}
	return Choice{
		Engine: MLflow,
		Why:    "asked for: MLflow's own scoring server",
		Launch: serving.Launch{Protocol: serving.HTTP, Argv: argv, Vars: v, Health: "/ping"},
	}, nil
}

// asgi reports whether this MLflow serves on uvicorn. Up to 2.20 it was
// gunicorn. A version that cannot be read is taken for a new one.
func asgi(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(major)
	if err != nil || a != 2 {
		return err != nil || a > 2
	}
	b, err := strconv.Atoi(minor)
	return err != nil || b >= 21
}

// fileURI writes an absolute path as MLflow wants it. Paths of ours hold
// little that needs escaping, but the data folder is the user's to name.
func fileURI(path string) string {
	const plain = "/-_.~"
	var out strings.Builder
	out.WriteString("file://")
	for _, c := range []byte(path) {
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.IndexByte(plain, c) >= 0 {
			out.WriteByte(c)
			continue
		}
		out.WriteString("%" + strings.ToUpper(string("0123456789abcdef"[c>>4])+string("0123456789abcdef"[c&15])))
	}
	return out.String()
}
