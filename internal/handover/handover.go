//go:build unix

package handover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The words that both sides say, one a line.
const (
	hello   = "loadline takeover 1"
	give    = "give"
	yours   = "yours"
	serving = "serving"
)

// patience is how long either side waits for a line that needs no work.
const patience = 10 * time.Second

// An Offer is what the older process hands over.
type Offer struct {
	Path     string // of the Unix socket to wait on
	Listener *net.TCPListener

	// Release gives up what the newer process needs for itself. It is called once,
	// and not again for another that asks after the first has failed.
	Release func() error

	// Waits is how long the newer one may take from then until it serves.
	Waits time.Duration

	// Failed is told of each that asked and did not come to serve.
	Failed func(error)

	release  sync.Once
	released error
	l        *net.UnixListener
}

// Listen makes the offer known; Serve then answers.
func (o *Offer) Listen() error {
	if err := os.Remove(o.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("offer the listener: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.Path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("offer the listener: %w", err)
	}
	l.SetUnlinkOnClose(false) // the newer process may offer at the same path by then
	o.l = l
	return nil
}

// Serve waits until another process serves on the listener, and returns nil
// then; the caller stops accepting and finishes what it has. It returns ctx's
// error when that ends.
func (o *Offer) Serve(ctx context.Context) error {
	l := o.l
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				os.Remove(o.Path)
				return ctx.Err()
			}
			return fmt.Errorf("offer the listener: %w", err)
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		err = o.hand(c)
		stop()
		c.Close()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil && o.Failed != nil {
			o.Failed(err)
		}
	}
}

// hand carries out the conversation with one that asks.
func (o *Offer) hand(c *net.UnixConn) error {
	if err := sameUser(c); err != nil {
		return err
	}
	in := bufio.NewReader(c)
	if err := expect(c, in, hello, patience); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c, "%s\n", o.Listener.Addr()); err != nil {
		return err
	}
	if err := expect(c, in, give, patience); err != nil {
		return err
	}
	o.release.Do(func() { o.released = o.Release() })
	if o.released != nil {
		return fmt.Errorf("give up what is to be taken over: %w", o.released)
	}
	if err := sendListener(c, o.Listener); err != nil {
		return err
	}
	return expect(c, in, serving, o.Waits)
}

func sendListener(c *net.UnixConn, l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { // File would make the shared socket one that blocks
		_, _, sent = c.WriteMsgUnix([]byte(yours+"\n"), unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sent)
}

// expect reads a line, which must be word.
func expect(c *net.UnixConn, in *bufio.Reader, word string, within time.Duration) error {
	_ = c.SetReadDeadline(time.Now().Add(within)) // fails only where reading does
	line, err := in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("await %q: %w", word, err)
	}
	if got := strings.TrimSuffix(line, "\n"); got != word {
		return fmt.Errorf("await %q: got %.100q", word, got)
	}
	return nil
}

// A Legacy is what was taken over. Whoever has it must say Serving, or Close it.
type Legacy struct {
	Listener net.Listener
	c        *net.UnixConn
}

// Ask takes over from the process that offers at path. Nil and no error mean
// that none does. suits is asked whether the listener's address is the one
// wanted, before anything is given up.
func Ask(path string, suits func(addr string) error) (*Legacy, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil //nolint:nilnil // nobody to take over from is no mistake
	}
	if err != nil {
		return nil, fmt.Errorf("ask to take over: %w", err)
	}
	l, err := ask(c, suits)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("take over: %w", err)
	}
	return &Legacy{Listener: l, c: c}, nil
}

func ask(c *net.UnixConn, suits func(string) error) (net.Listener, error) {
	if err := sameUser(c); err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte(hello + "\n")); err != nil {
		return nil, err
	}
	buf := make([]byte, 256)
	n, err := c.Read(buf)
	if err != nil {
		return nil, err
	}
	if err := suits(strings.TrimSuffix(string(buf[:n]), "\n")); err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte(give + "\n")); err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // work is brought to an end there
	return receiveListener(c, buf)
}

func receiveListener(c *net.UnixConn, buf []byte) (net.Listener, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, fmt.Errorf("the older process gave nothing: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 || string(buf[:n]) != yours+"\n" {
		return nil, fmt.Errorf("the older process sent %.100q, which is no listener", buf[:n])
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("the older process sent no listener: %w", err)
	}
	unix.CloseOnExec(fds[0])
	f := os.NewFile(uintptr(fds[0]), "listener")
	defer f.Close() // FileListener keeps a descriptor of its own
	return net.FileListener(f)
}

// Serving tells the older process to stop accepting.
func (l *Legacy) Serving() error {
	defer l.c.Close()
	_ = l.c.SetDeadline(time.Now().Add(patience))
	_, err := l.c.Write([]byte(serving + "\n"))
	return err
}

// Close gives up: the older process serves on.
func (l *Legacy) Close() error { return errors.Join(l.Listener.Close(), l.c.Close()) }
