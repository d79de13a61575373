package gateway

import (
	"context"
	"path/filepath"

	"loadline.dev/loadline/link"
)

// dial connects to the replica: over a Unix socket where its address is a path,
// and else as [Config.Dial] does it.
func (r *replica) dial(ctx context.Context, h link.Hooks) (*link.Conn, error) {
	if r.e.g.Dial == nil || filepath.IsAbs(r.addr) {
		return link.Dial(ctx, r.addr, h)
	}
	nc, err := r.e.g.Dial(ctx, r.addr, r.id)
	if err != nil {
		return nil, err
	}
	return link.NewConn(ctx, nc, h)
}
