//go:build linux

package nonblock

import (
	"errors"
	"syscall"
	"testing"
)

func TestASocketIsReadAndWrittenWithoutWaiting(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if _, err := Read(fds[0], buf); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("reading nothing: %v", err)
	}
	if n, err := Write(fds[1], []byte("hello")); n != 5 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if n, err := Read(fds[0], buf); string(buf[:n]) != "hello" || err != nil {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	for err = nil; err == nil; { // nobody reads
		_, err = Write(fds[1], make([]byte, 64<<10))
	}
	if !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a full socket: %v", err)
	}
	syscall.Close(fds[1])
	for err = nil; err == nil; {
		var n int
		if n, err = Read(fds[0], make([]byte, 64<<10)); n == 0 {
			break
		}
	}
	if err != nil {
		t.Errorf("the end: %v", err)
	}
	if _, err := Write(fds[0], buf); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("writing to nobody: %v", err)
	}
	syscall.Close(fds[0])
}
