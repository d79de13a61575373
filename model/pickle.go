package model

import (
	"archive/zip"
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A pickle is a program. Its opcodes name the functions that loading it calls;
// ScanPickles reads those names without running anything. It warns, it proves
// nothing: what a harmless-looking name leads to is only known by running it,
// which happens in the sandbox alone.

// dangerous lists modules, and single names in them, that no model needs and
// that run commands, change files or reach the network.
var dangerous = map[string][]string{
	"os": nil, "posix": nil, "nt": nil, "subprocess": nil, "pty": nil, "shutil": nil, "socket": nil, "socketserver": nil,
	"ctypes": nil, "importlib": nil, "runpy": nil, "sys": nil, "webbrowser": nil, "http": nil, "urllib": nil, "requests": nil,
	"ftplib": nil, "smtplib": nil, "commands": nil, "popen2": nil, "code": nil, "codeop": nil, "pdb": nil, "bdb": nil, "profile": nil, "cProfile": nil,
	"timeit": nil, "multiprocessing": nil, "signal": nil, "tempfile": nil, "pip": nil, "asyncio": nil, "marshal": nil, "zipimport": nil, "pkgutil": nil,
	"builtins":    {"eval", "exec", "compile", "__import__", "open", "input", "breakpoint", "globals", "vars"},
	"__builtin__": {"eval", "exec", "execfile", "compile", "__import__", "open", "file", "input", "raw_input", "globals", "vars", "apply", "reload"},
	"pickle":      {"loads", "load", "_loads", "_load", "Unpickler"},
	"numpy":       {"load", "fromfile", "memmap"},
	"torch":       {"load"},
	"joblib":      {"load"},
	"types":       {"FunctionType", "CodeType"},
}

// pickled are the endings of files that Python unpickles.
var pickled = []string{".pkl", ".pickle", ".cloudpickle", ".joblib", ".dill", ".pt", ".pth", ".bin", ".sav"}

const (
	maxScanned  = 1 << 30 // bytes of one pickle that are looked at
	maxWarnings = 50
)

// ScanPickles returns a sentence for each dangerous thing that a pickle in dir
// names, sorted, without repetitions.
func ScanPickles(ctx context.Context, dir string) ([]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var warnings []string
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !slices.Contains(pickled, strings.ToLower(path.Ext(p))) {
			return err
		}
		found, err := scanFile(ctx, root, p)
		for _, name := range found {
			warnings = append(warnings, fmt.Sprintf("%s names %s, which loading the model may call", p, name))
		}
		return err
	})
	slices.Sort(warnings)
	warnings = slices.Compact(warnings)
	if n := len(warnings); n > maxWarnings {
		warnings = append(warnings[:maxWarnings], fmt.Sprintf("and %d more", n-maxWarnings))
	}
	return warnings, err
}

func scanFile(ctx context.Context, root *os.Root, p string) ([]string, error) {
	f, err := root.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// PyTorch keeps its pickle in a zip file.
	if z, err := zip.NewReader(f, info.Size()); err == nil {
		return scanZip(ctx, z)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return ScanPickle(contextReader{ctx, f}), ctx.Err()
}

func scanZip(ctx context.Context, z *zip.Reader) ([]string, error) {
	var found []string
	for _, f := range z.File {
		if path.Ext(f.Name) != ".pkl" {
			continue
		}
		r, err := f.Open()
		if err != nil {
			continue // what cannot be opened here cannot be loaded either
		}
		found = append(found, ScanPickle(contextReader{ctx, r})...)
		_ = r.Close()
	}
	return found, ctx.Err()
}

// ScanPickle lists the dangerous globals ("os.system") that a pickle names, as
// far as it can be read. What is no pickle names nothing.
func ScanPickle(r io.Reader) []string {
	s := scanner{r: bufio.NewReaderSize(io.LimitReader(r, maxScanned), 64<<10), memo: map[uint64]string{}}
	for s.step() == nil {
	}
	slices.Sort(s.found)
	return slices.Compact(s.found)
}

// A scanner follows a pickle's strings, which is enough to know the names.
type scanner struct {
	r     *bufio.Reader
	stack []string // the last strings pushed, other values as ""
	memo  map[uint64]string
	next  uint64 // key of the next MEMOIZE
	found []string
}

// Opcodes whose argument is a fixed number of bytes that mean nothing here.
var fixed = map[byte]int64{'K': 1, 'M': 2, 'J': 4, 'G': 8, 0x80: 1, 0x82: 1, 0x83: 2, 0x84: 4, 0x95: 8}

// Opcodes whose argument is bytes behind a length of so many bytes.
var counted = map[byte]int{'U': 1, 'T': 4, 'C': 1, 'B': 4, 0x8e: 8, 0x96: 8, 0x8c: 1, 'X': 4, 0x8d: 8, 0x8a: 1, 0x8b: 4}

const texts = "UTX\x8c\x8d" // of those, the ones that push text

var (
	errEnd     = errors.New("end")
	errUnknown = errors.New("no pickle opcode")
)

func (s *scanner) step() error {
	op, err := s.r.ReadByte()
	if err != nil {
		return err
	}
	if n, ok := fixed[op]; ok {
		return s.skip(op, n)
	}
	if n, ok := counted[op]; ok {
		return s.counted(op, n)
	}
	switch op {
	case '.':
		return errEnd
	case '2': // DUP
		if n := len(s.stack); n > 0 {
			s.push(s.stack[n-1])
		}
		return nil
	case 'c', 'i': // GLOBAL, INST: two lines
		module, err := s.line()
		if err != nil {
			return err
		}
		name, err := s.line()
		if err != nil {
			return err
		}
		s.name(module, name)
		if op == 'i' {
			s.apply(effects['1'])
		}
		s.push("")
		return nil
	case 0x93: // STACK_GLOBAL
		n := len(s.stack)
		if n >= 2 {
			s.name(s.stack[n-2], s.stack[n-1])
			s.stack = s.stack[:n-2]
		}
		s.push("")
		return nil
	case 'S', 'V', 'I', 'L', 'F', 'P', 'g', 'p':
		return s.lined(op)
	case 'q', 'r', 'h', 'j', 0x94:
		return s.remember(op)
	}
	if e, ok := effects[op]; ok {
		s.apply(e)
		return nil
	}
	return errUnknown
}

// mark is what MARK pushes.
const mark = "\x00mark"

// An effect is what an opcode without argument does to the stack.
type effect struct {
	toMark bool // pops down to the last mark, and the mark
	pops   int
	push   []string
}

var one = []string{""}

var effects = map[byte]effect{
	'(': {push: []string{mark}}, '0': {pops: 1}, '1': {toMark: true},
	'N': {push: one}, ')': {push: one}, ']': {push: one}, '}': {push: one}, 0x88: {push: one}, 0x89: {push: one}, 0x8f: {push: one}, 0x97: {push: one}, 0x98: {},
	'a': {pops: 1}, 'b': {pops: 1}, 's': {pops: 2}, 'Q': {pops: 1, push: one}, 'R': {pops: 2, push: one}, 0x81: {pops: 2, push: one}, 0x92: {pops: 3, push: one},
	0x85: {pops: 1, push: one}, 0x86: {pops: 2, push: one}, 0x87: {pops: 3, push: one},
	't': {toMark: true, push: one}, 'l': {toMark: true, push: one}, 'd': {toMark: true, push: one}, 'o': {toMark: true, push: one}, 0x91: {toMark: true, push: one},
	'e': {toMark: true}, 'u': {toMark: true}, 0x90: {toMark: true},
}

func (s *scanner) apply(e effect) {
	if e.toMark {
		i := len(s.stack) - 1
		for i > 0 && s.stack[i] != mark {
			i--
		}
		s.stack = s.stack[:max(i, 0)]
	}
	s.stack = s.stack[:max(len(s.stack)-e.pops, 0)]
	for _, v := range e.push {
		s.push(v)
	}
}

func (s *scanner) push(v string) {
	if len(s.stack) >= 1024 {
		s.stack = append(s.stack[:0], s.stack[512:]...)
	}
	s.stack = append(s.stack, v)
}

func (s *scanner) skip(op byte, n int64) error {
	_, err := io.CopyN(io.Discard, s.r, n)
	if op != 0x80 && op != 0x95 { // PROTO and FRAME push nothing
		s.push("")
	}
	return err
}

func (s *scanner) counted(op byte, width int) error {
	var b [8]byte
	if _, err := io.ReadFull(s.r, b[:width]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint64(b[:])
	if n > maxScanned {
		return errUnknown
	}
	if strings.IndexByte(texts, op) < 0 || n > 4096 {
		_, err := io.CopyN(io.Discard, s.r, int64(n))
		s.push("")
		return err
	}
	text := make([]byte, n)
	_, err := io.ReadFull(s.r, text)
	s.push(string(text))
	return err
}

func (s *scanner) lined(op byte) error {
	text, err := s.line()
	if err != nil {
		return err
	}
	var key uint64
	switch op {
	case 'S':
		s.push(unescape(strings.Trim(text, `'"`)))
	case 'V':
		s.push(unescape(text))
	case 'g', 'p':
		if _, err := fmt.Sscan(text, &key); err != nil {
			return err
		}
		s.memoize(op == 'g', key)
	default:
		s.push("")
	}
	return nil
}

func (s *scanner) remember(op byte) error {
	width := map[byte]int{'q': 1, 'h': 1, 'r': 4, 'j': 4}[op]
	var b [8]byte
	if _, err := io.ReadFull(s.r, b[:width]); err != nil {
		return err
	}
	key := binary.LittleEndian.Uint64(b[:])
	if op == 0x94 { // MEMOIZE counts by itself
		key = s.next
	}
	s.memoize(op == 'h' || op == 'j', key)
	return nil
}

// memoize gets a remembered value, or remembers the top.
func (s *scanner) memoize(get bool, key uint64) {
	if get {
		s.push(s.memo[key])
		return
	}
	s.next++
	if n := len(s.stack); n > 0 && s.stack[n-1] != "" && len(s.memo) < 1<<20 {
		s.memo[key] = s.stack[n-1]
	}
}

// unescape undoes the backslashes of the old text opcodes, which could hide a name.
func unescape(text string) string {
	if plain, err := strconv.Unquote(`"` + strings.ReplaceAll(text, `"`, `\"`) + `"`); err == nil {
		return plain
	}
	return text
}

// line reads an argument that ends with its line. A longer one than any name is no pickle's.
func (s *scanner) line() (string, error) {
	var b []byte
	for {
		c, err := s.r.ReadByte()
		if err != nil {
			return "", err
		}
		if c == '\n' {
			return strings.TrimSuffix(string(b), "\r"), nil
		}
		if b = append(b, c); len(b) > 1<<20 {
			return "", errUnknown
		}
	}
}

// name notes a global down if it is a dangerous one. The last name of a dotted
// one decides what is called, any part of it may be the module.
func (s *scanner) name(module, name string) {
	if len(s.found) > 10*maxWarnings {
		return
	}
	full := module + "." + name
	for m, names := range dangerous {
		if module != m && !strings.HasPrefix(module, m+".") {
			continue
		}
		if names == nil || slices.Contains(names, name) || slices.Contains(names, strings.SplitN(name, ".", 2)[0]) {
			s.found = append(s.found, full)
		}
	}
}
