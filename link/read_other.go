//go:build !linux

package link

import "syscall"

func (r *reader) poll(_ syscall.RawConn, f func(header, []byte) error) error { return r.loop(f) }
