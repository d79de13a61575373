package onnx

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
)

// The C interface is one table of functions that only ever grows at its end:
// https://onnxruntime.ai/docs/api/c/struct_ort_api.html. These are the places
// in it of those that are called here, the same in every version.
const (
	getErrorMessage       = 2
	createEnv             = 3
	createSession         = 7
	createSessionFromData = 8
	runSession            = 9
	createOptions         = 10
	disableMemPattern     = 17
	disableArena          = 19
	setOptimization       = 23
	setIntraThreads       = 24
	setInterThreads       = 25
	inputCount            = 30
	outputCount           = 31
	inputType             = 33
	outputType            = 34
	inputName             = 36
	outputName            = 37
	createRunOptions      = 39
	setTerminate          = 46
	createTensor          = 48
	createTensorOnData    = 49
	tensorData            = 51
	fillStrings           = 52
	stringsLength         = 53
	stringsContent        = 54
	castToTensor          = 55
	onnxType              = 56
	elementType           = 60
	dimensionCount        = 61
	dimensions            = 62
	elementCount          = 64
	typeAndShape          = 65
	createMemoryInfo      = 69
	allocatorFree         = 76
	defaultAllocator      = 78
	releaseEnv            = 92
	releaseStatus         = 93
	releaseMemoryInfo     = 94
	releaseSession        = 95
	releaseValue          = 96
	releaseRunOptions     = 97
	releaseTypeInfo       = 98
	releaseShape          = 99
	releaseOptions        = 100
	addConfigEntry        = 130
)

// wanted is the version of the table that is asked for: that of ONNX Runtime 1.17.
const wanted = 17

// Versions of the library that these calls were tried with. A patch or a minor
// version between them is taken; another major version never.
const (
	oldest = 17
	newest = 40
)

// A Library is ONNX Runtime, loaded into this process for good.
type Library struct {
	version string
	table   *[addConfigEntry + 1]uintptr
	env     uintptr
	memory  uintptr // where tensors lie: this machine's own memory
	alloc   uintptr // gives the names that it hands out
}

// Open loads the shared library at path. Loading the same path again costs little.
func Open(path string) (*Library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("load ONNX Runtime: %w", err)
	}
	symbol, err := purego.Dlsym(handle, "OrtGetApiBase")
	if err != nil {
		return nil, fmt.Errorf("%s is not ONNX Runtime: %w", path, err)
	}
	// struct OrtApiBase { const OrtApi* (*GetApi)(uint32_t); const char* (*GetVersionString)(void); }
	base, _, _ := purego.SyscallN(symbol)
	if base == 0 {
		return nil, fmt.Errorf("%s is not ONNX Runtime", path)
	}
	head := at[[2]uintptr](base)
	text, _, _ := purego.SyscallN(head[1])
	l := &Library{version: cString(text)}
	if err := checkVersion(l.version); err != nil {
		return nil, err
	}
	table, _, _ := purego.SyscallN(head[0], wanted)
	if table == 0 {
		return nil, fmt.Errorf("ONNX Runtime %s does not offer version %d of its interface", l.version, wanted)
	}
	l.table = at[[addConfigEntry + 1]uintptr](table)
	const errorsOnly = 3
	name := cBytes("loadline")
	if err := l.do(createEnv, errorsOnly, uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(&l.env))); err != nil {
		return nil, err
	}
	const device, inMemory = 0, 0
	if err := l.do(createMemoryInfo, device, inMemory, uintptr(unsafe.Pointer(&l.memory))); err != nil {
		return nil, err
	}
	return l, l.do(defaultAllocator, uintptr(unsafe.Pointer(&l.alloc)))
}

// Version is the library's own: "1.32.0".
func (l *Library) Version() string { return l.version }

// checkVersion refuses versions that nobody has tried.
func checkVersion(version string) error {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	if major != "1" || err != nil || n < oldest || n > newest {
		return fmt.Errorf("ONNX Runtime is %q; versions from 1.%d to 1.%d are supported", version, oldest, newest)
	}
	return nil
}

// call calls a function that cannot fail. As with do, a Go pointer among the
// arguments is converted in the call itself, so that what it points at stays
// where it is.
//
//go:uintptrescapes
func (l *Library) call(function int, args ...uintptr) uintptr {
	r, _, _ := purego.SyscallN(l.table[function], args...)
	return r
}

// do calls a function that returns an OrtStatus, which is nil when all went well.
//
//go:uintptrescapes
func (l *Library) do(function int, args ...uintptr) error {
	status, _, _ := purego.SyscallN(l.table[function], args...)
	if status == 0 {
		return nil
	}
	message := strings.ToValidUTF8(cString(l.call(getErrorMessage, status)), "\uFFFD")
	l.call(releaseStatus, status)
	return errors.New("ONNX Runtime: " + message)
}

// at is what lies at an address that C gave.
func at[T any](p uintptr) *T {
	// The detour keeps vet from taking it for arithmetic on a Go pointer.
	return *(**T)(unsafe.Pointer(&p))
}

// cBytes is s as C reads it. What follows a NUL is lost, so s must hold none.
func cBytes(s string) []byte { return append([]byte(s), 0) }

// cString copies the text at p.
func cString(p uintptr) string {
	if p == 0 {
		return ""
	}
	n := 0
	for *at[byte](p + uintptr(n)) != 0 {
		n++
	}
	return string(unsafe.Slice(at[byte](p), n))
}
