//go:build !linux

package gateway

func (c *conn) poll() (ordinary bool) { return true }

func (c *conn) hangUp() { c.sock.Close() }

func (c *conn) write(p []byte) (int, error) { return c.nc.Write(p) }
