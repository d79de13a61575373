package tokens

import (
	"crypto/sha256"
	"sync/atomic"
	"time"

	"loadline.dev/loadline/auth"
)

// Share lists what is needed to know callers in another process: every token's
// hash, the owner's among them. A hash of 32 random bytes gives none away.
func (b *Book) Share() []Token {
	return append(b.List(), Token{Name: ownerName, Tenant: auth.Anonymous.Tenant, Scope: auth.Admin, Hash: b.owner})
}

// ownerName is nobody else's: see Create.
const ownerName = "owner"

// A Copy knows the holders of tokens that a [Book] elsewhere has shared. The
// zero Copy knows nobody. It is safe for concurrent use.
type Copy struct {
	known atomic.Pointer[map[[sha256.Size]byte]Token]
}

// Set replaces what is known.
func (c *Copy) Set(shared []Token) {
	known := make(map[[sha256.Size]byte]Token, len(shared))
	for _, t := range shared {
		known[t.Hash] = t
	}
	c.known.Store(&known)
}

// Find is [Book.Find].
func (c *Copy) Find(text string, now time.Time) (auth.Principal, bool) {
	known := c.known.Load()
	if known == nil || len(text) == 0 || len(text) > maxToken {
		return auth.Principal{}, false
	}
	t, ok := (*known)[sha256.Sum256([]byte(text))]
	if !ok || !t.Expires.IsZero() && !now.Before(t.Expires) {
		return auth.Principal{}, false
	}
	return auth.Principal{Name: t.Name, Tenant: t.Tenant, Scope: t.Scope, Owner: t.Name == ownerName, Token: t.ID}, true
}
