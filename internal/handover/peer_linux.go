package handover

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// sameUser makes sure that the other end runs as this process does.
func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var who *unix.Ucred
	var asked error
	if err := raw.Control(func(fd uintptr) { who, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if asked != nil {
		return asked
	}
	if int(who.Uid) != os.Geteuid() {
		return fmt.Errorf("the other end runs as user %d", who.Uid)
	}
	return nil
}
