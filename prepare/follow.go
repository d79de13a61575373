package prepare

import (
	"bytes"
	"io"
	"os"
	"time"
)

// followMost bounds what is read of a list that the model's own code can write to.
const followMost = 8 << 20

// follow makes the file and calls see with each line that is added to it, each
// once, until stop, which returns when all has been seen.
func follow(path string, see func(line string)) (stop func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, err
	}
	// What is read is this very file, whatever the path is made to mean later.
	list := io.LimitReader(f, followMost)
	seen, part := map[string]bool{}, []byte(nil)
	read := func() {
		data, _ := io.ReadAll(list)
		part = append(part, data...)
		for {
			line, rest, whole := bytes.Cut(part, []byte("\n"))
			if !whole {
				return
			}
			if part = rest; !seen[string(line)] {
				seen[string(line)] = true
				see(string(line))
			}
		}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer f.Close()
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				read()
			case <-end:
				read()
				return
			}
		}
	}()
	return func() { close(end); <-ended }, nil
}
