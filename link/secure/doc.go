// Package secure lets a link run between machines: TCP with TLS 1.3, and both
// sides prove who they are. An [Authority] of our own vouches for gateways and
// replicas with certificates that are good for a day; an [Identity] holds one
// and uses the newest for each new connection, so that renewing it breaks none.
//
// It knows nothing of frames: what it dials and accepts is an ordinary
// [net.Conn] for package link. It is a room of its own because the small agent,
// which only ever listens on a Unix socket, is not to be built of crypto/tls.
package secure

import (
	"fmt"
	"strings"
)

// A Role is what the holder of a certificate may be. A certificate bears one
// name, "NAME.ROLE.loadline.internal", and nothing else tells roles apart.
type Role string

const (
	Gateway Role = "gateway" // opens connections, to replicas and to other gateways
	Replica Role = "replica" // only answers them
)

const domain = ".loadline.internal" // .internal is nobody's on the public internet (ICANN, 2024)

// host is the name in the certificate of who is called name in that role.
func (r Role) host(name string) string { return name + "." + string(r) + domain }

// roleOf reads a certificate's name.
func roleOf(host string) (name string, role Role, err error) {
	rest, ok := strings.CutSuffix(host, domain)
	name, said, cut := strings.Cut(rest, ".")
	role = Role(said)
	if !ok || !cut || !plain(name) || role != Gateway && role != Replica {
		return "", "", fmt.Errorf("certificate of %.80q, who is neither a gateway nor a replica", host)
	}
	return name, role, nil
}

// plain names are what IDs are made of, so that none reads as another role.
func plain(name string) bool {
	return name != "" && len(name) <= 63 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
