package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// credentialName is the file in a replica's folder that holds the key by which
// its agent proves itself to gateways. The folder is shown to the agent alone:
// of it an engine sees nothing but work.
const credentialName = "link.pem"

// retryCredential is when one that could not be renewed is tried again.
const retryCredential = time.Minute

// vouch gives a replica its credential, or a new one when that is due. The
// agent takes it for new connections; those that are there go on.
func (p *Platform) vouch(r *replica, now time.Time) error {
	if p.Credential == nil || !r.vouched || now.Before(r.renewAt) {
		return nil
	}
	text, renew, err := p.Credential(r.id, now)
	if err == nil {
		err = writeFile(filepath.Join(r.dir, credentialName), text)
	}
	if err != nil {
		r.renewAt = now.Add(retryCredential)
		return fmt.Errorf("credential of replica %s: %w", r.id, err)
	}
	r.renewAt = renew
	return nil
}

// hasCredential says whether a replica that an earlier process started was
// given one.
func (r *replica) hasCredential() bool {
	_, err := os.Stat(filepath.Join(r.dir, credentialName))
	return !errors.Is(err, fs.ErrNotExist)
}
