package pyenv

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"loadline.dev/loadline/model/mlmodel"
	"loadline.dev/loadline/serving"
)

// folder writes files and returns where.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const pythonEnv = "python: 3.11.7\nbuild_dependencies:\n- pip==23.2.1\n- setuptools==68.0.0\n- wheel\ndependencies:\n- -r requirements.txt\n"

var asked = mlmodel.Model{MLflowVersion: "3.17.2", PyFunc: &mlmodel.PyFunc{PythonVersion: "3.11.7", Virtualenv: "python_env.yaml", Conda: "conda.yaml"}}

func TestRequirementsAreReadAsMLflowWrites(t *testing.T) {
	for name, c := range map[string]struct {
		files  map[string]string
		lines  []string
		python string
		note   string
	}{
		"python_env.yaml with its requirements": {
			files:  map[string]string{"python_env.yaml": pythonEnv, "requirements.txt": "mlflow==3.17.2\n# by hand\nscikit-learn==1.9.1  # pinned\n\nnumpy<3\n"},
			lines:  []string{"mlflow==3.17.2", "scikit-learn==1.9.1", "numpy<3"},
			python: "3.11",
		},
		"a byte order mark, CRLF and a continued line": {
			files:  map[string]string{"python_env.yaml": pythonEnv, "requirements.txt": "\xef\xbb\xbfmlflow==3.17.2\r\nsix==1.16.0 \\\r\n  --hash=sha256:abc0\r\n"},
			lines:  []string{"mlflow==3.17.2", "six==1.16.0    --hash=sha256:abc0"},
			python: "3.11",
		},
		"extras and markers": {
			files:  map[string]string{"python_env.yaml": pythonEnv, "requirements.txt": "mlflow[gateway]>=3,<4\nattrs~=23.1; python_version < '3.12' and sys_platform == \"linux\"\n"},
			lines:  []string{"mlflow[gateway]>=3,<4", `attrs~=23.1; python_version < '3.12' and sys_platform == "linux"`},
			python: "3.11",
		},
		"the pip part of conda.yaml": {
			files:  map[string]string{"conda.yaml": "channels: [conda-forge]\nname: x\ndependencies:\n- python=3.9.18\n- pip<=23.1\n- pip:\n  - mlflow==3.1.4\n  - six\n"},
			lines:  []string{"mlflow==3.1.4", "six"},
			python: "3.9",
		},
		"conda.yaml that leaves Python open": {
			files:  map[string]string{"conda.yaml": "dependencies:\n- python>=3.8\n- pip:\n  - mlflow\n"},
			lines:  []string{"mlflow"},
			python: "3.11",
		},
		"requirements.txt alone": {
			files:  map[string]string{"requirements.txt": "mlflow\n"},
			lines:  []string{"mlflow"},
			python: "3.11",
		},
		"no MLflow": {
			files:  map[string]string{"python_env.yaml": pythonEnv, "requirements.txt": "six\n"},
			lines:  []string{"six", "mlflow==3.17.2"},
			python: "3.11",
			note:   "the requirements name no MLflow: added mlflow==3.17.2",
		},
		"only mlflow-skinny": {
			files:  map[string]string{"python_env.yaml": pythonEnv, "requirements.txt": "mlflow_skinny==3.16.0\n"},
			lines:  []string{"mlflow_skinny==3.16.0", "mlflow==3.16.0"},
			python: "3.11",
			note:   "mlflow-skinny alone cannot score: added mlflow==3.16.0",
		},
		"an MLflow that needs pkg_resources": {
			files:  map[string]string{"python_env.yaml": "python: 3.9\nbuild_dependencies: [pip, setuptools]\ndependencies: [mlflow==2.9.2]\n"},
			lines:  []string{"mlflow==2.9.2", "setuptools<81"},
			python: "3.9",
			note:   "MLflow before 2.17 needs pkg_resources: added setuptools<81",
		},
		"such an MLflow with setuptools of its own": {
			files:  map[string]string{"python_env.yaml": pythonEnv, "requirements.txt": "mlflow==2.16.2\n"},
			lines:  []string{"mlflow==2.16.2"},
			python: "3.11",
		},
		"a float that YAML would shorten": {
			files:  map[string]string{"python_env.yaml": "python: 3.10\ndependencies: [mlflow]\n"},
			lines:  []string{"mlflow"},
			python: "3.10",
		},
		"files beside each other": {
			files:  map[string]string{"python_env.yaml": pythonEnv, "requirements.txt": "-r more/a.txt\n", "more/a.txt": "mlflow\n--requirement=b.txt\n", "more/b.txt": "six\n"},
			lines:  []string{"mlflow", "six"},
			python: "3.11",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := read(folder(t, c.files), asked, false)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(w.lines, c.lines) || w.python != c.python || strings.Join(w.notes, "; ") != c.note {
				t.Errorf("got %q for %s (%q), want %q for %s (%q)", w.lines, w.python, w.notes, c.lines, c.python, c.note)
			}
		})
	}
}

func TestWhatCannotBeHonouredIsNamed(t *testing.T) {
	with := func(requirements string) map[string]string {
		return map[string]string{"python_env.yaml": pythonEnv, "requirements.txt": requirements}
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"editable":                {with("mlflow\n-e .\n"), `requirements.txt line 2: "-e ." is the option -e`},
		"another index":           {with("--index-url http://u:secret@evil/simple\n"), `requirements.txt line 1: "--index-url http://***@evil/simple" is the option --index-url`},
		"another index, equals":   {with("\n\n--extra-index-url=http://evil\n"), "line 3"},
		"find links":              {with("-f http://evil\n"), "the option -f"},
		"a repository":            {with("six\nx @ git+ssh://host/x\n"), "line 2: \"x @ git+ssh://host/x\" reaches into a source repository"},
		"a bare repository":       {with("git+https://host/x@main#egg=x\n"), "reaches into a source repository"},
		"a file address":          {with("file:///etc/passwd\n"), "names a file"},
		"a named file address":    {with("x @ file:///x.whl\n"), "names a file"},
		"a wheel beside":          {with("../x.whl\n"), "names a file"},
		"a wheel that is missing": {with("wheels/x.whl\n"), `"wheels/x.whl" is not among the model's files`},
		"a wheel up and down":     {with("wheels/../../x.whl\n"), "line 1"},
		"a folder":                {with("./src\n"), "names a file"},
		"an address":              {with("x @ https://host/x.zip\n"), "names a place of its own"},
		"an option in a line":     {with("six==1 --index-url http://evil\n"), "line 1"},
		"an option in a marker":   {with("six; python_version > '3' --index-url http://evil\n"), "line 1"},
		"an escape":               {with("six\x1b[2J\n"), "control character"},
		"too many lines":          {with(strings.Repeat("six\n", 10_000)), "more than 5000 requirements"},
		"a file outside":          {with("-r ../other.txt\n"), "requirements.txt line 1"},
		"a file of the system":    {with("-c /etc/passwd\n"), "lies outside the model's folder"},
		"a file that is missing":  {with("-r nowhere.txt\n"), `"nowhere.txt" is not among the model's files`},
		"a file in a circle":      {with("-r requirements.txt\n"), "include each other"},
		"conda packages": {map[string]string{"conda.yaml": "dependencies:\n- python=3.11\n- cudatoolkit=11.8\n- conda-forge::libgcc\n- pip:\n  - mlflow\n"},
			"conda.yaml: conda packages cannot be had from the Python package index: cudatoolkit=11.8 (line 3), conda-forge::libgcc (line 4)"},
		"conda packages that python_env.yaml has lost": {map[string]string{"conda.yaml": "dependencies: [python=3.11, cudatoolkit]\n",
			"python_env.yaml": pythonEnv, "requirements.txt": "mlflow\n"}, "cudatoolkit (line 1)"},
		"a list that is none":        {map[string]string{"python_env.yaml": "python: 3.11\ndependencies: six\n"}, "line 2: dependencies must be a list"},
		"aliases":                    {map[string]string{"python_env.yaml": "a: &x [1]\ndependencies: *x\n"}, "aliases are not allowed"},
		"a key twice":                {map[string]string{"python_env.yaml": "python: 3.11\npython: 3.9\n"}, "stands twice"},
		"a Python that is no number": {map[string]string{"python_env.yaml": "python: three\n"}, `"three" is not a Python version`},
		"an empty file":              {map[string]string{"python_env.yaml": ""}, "the file is empty"},
		"an option among build dependencies": {map[string]string{"python_env.yaml": "python: 3.11.7\nbuild_dependencies:\n- pip\n- --pre x\n"},
			"python_env.yaml line 4"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(folder(t, c.files), asked, false)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if !errors.Is(err, serving.Invalid) {
				t.Errorf("%v is not invalid", err)
			}
		})
	}
}

func TestAllowedSourcesPass(t *testing.T) {
	w, err := read(folder(t, map[string]string{"python_env.yaml": pythonEnv, "requirements.txt": "--extra-index-url https://host\nmlflow @ git+https://host/m\n"}), asked, true)
	if err != nil || !w.sources || len(w.lines) != 2 || len(w.notes) != 0 {
		t.Errorf("got %+v, %v", w, err)
	}
}

func TestMissingPythonListsThosePresent(t *testing.T) {
	present := Interpreters(t.Context())
	if len(present) == 0 {
		t.Skip("no interpreter on this machine")
	}
	for _, minor := range []string{"2.7", "3.99", "3.6"} {
		_, err := find(t.Context(), minor, "")
		if err == nil || !errors.Is(err, serving.Invalid) || !strings.Contains(err.Error(), "Python "+minor) || !strings.Contains(err.Error(), present[0].Version) {
			t.Errorf("%s: got %v, want it to name %s and %s", minor, err, minor, present[0].Version)
		}
		if serving.FixOf(err) == "" {
			t.Errorf("%s: no advice", minor)
		}
	}
	for _, i := range present {
		if strings.Contains(i.Path, "shims") || !filepath.IsAbs(i.Path) {
			t.Errorf("%v is a shim or relative", i)
		}
	}
}

func FuzzRequirementLine(f *testing.F) {
	for _, s := range []string{"six==1.16.0", "mlflow[a,b]>=1,<2; python_version>'3'", "-e .", "x @ git+https://h", "a==1 --hash=sha256:00", "a;--b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, l := range splitLines([]byte(s)) {
			r, err := readLine(l.text)
			if err != nil {
				continue
			}
			bare, _, _ := strings.Cut(r.text, "--hash")
			if r.name == "" || strings.HasPrefix(r.text, "-") || strings.Contains(bare, "--") || strings.Contains(bare, "://") || strings.ContainsAny(bare, "@/\\\n") {
				t.Errorf("%q was taken as a package of the index", r.text)
			}
		}
	})
}

func FuzzEnvironmentFiles(f *testing.F) {
	f.Add([]byte(pythonEnv))
	f.Add([]byte("dependencies:\n- python=3.9\n- pip:\n  - six\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		readPythonEnv(data)
		readConda(data)
	})
}
