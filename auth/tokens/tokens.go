// Package tokens keeps opaque tokens: made once, shown once, remembered only
// as a hash. It also keeps the owner's token, a file in the data folder that
// the command line of the same user finds by itself.
//
// It says who holds a token. What the holder may do is decided by auth.
package tokens

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/serving"
)

// A Drawer keeps small values under keys.
type Drawer interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	Keys(ctx context.Context, prefix string) ([]string, error)
}

// A Token is what is kept of a token: everything but its text.
type Token struct {
	ID      string // 8 hex digits, for people
	Name    string
	Tenant  string
	Scope   auth.Scope
	Created time.Time
	Expires time.Time // zero is never
	Hash    [sha256.Size]byte
}

// A Book holds every valid token. It is safe for concurrent use.
type Book struct {
	drawer Drawer
	now    func() time.Time

	mu    sync.RWMutex
	known map[[sha256.Size]byte]Token
	owner [sha256.Size]byte
}

const (
	prefix     = "ll_"   // lets scanners for leaked secrets know one
	secretSize = 32      // bytes of randomness
	maxToken   = 4 << 10 // longer texts are not looked at
)

// Open reads the tokens of a drawer, and the owner's from ownerFile, which is
// made when it is not there.
func Open(ctx context.Context, drawer Drawer, ownerFile string, now func() time.Time) (*Book, error) {
	b := &Book{drawer: drawer, now: now, known: map[[sha256.Size]byte]Token{}}
	owner, err := ownerToken(ownerFile)
	if err != nil {
		return nil, err
	}
	b.owner = sha256.Sum256([]byte(owner))
	keys, err := drawer.Keys(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	for _, key := range keys {
		data, err := drawer.Get(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("read token %s: %w", key, err)
		}
		var t Token
		if err := json.Unmarshal(data, &t); err != nil {
			return nil, fmt.Errorf("read token %s: %w", key, err)
		}
		b.known[t.Hash] = t
	}
	return b, nil
}

// Find says who holds a token. It costs one hash and one look-up, whether the
// token is right or wrong, and compares hashes, so its time tells nothing.
func (b *Book) Find(text string) (auth.Principal, bool) {
	if len(text) == 0 || len(text) > maxToken {
		return auth.Principal{}, false
	}
	hash := sha256.Sum256([]byte(text))
	if hash == b.owner {
		return auth.Principal{Name: "owner", Tenant: "default", Scope: auth.Admin, Owner: true}, true
	}
	b.mu.RLock()
	t, ok := b.known[hash]
	b.mu.RUnlock()
	if !ok || !t.Expires.IsZero() && !b.now().Before(t.Expires) {
		return auth.Principal{}, false
	}
	return auth.Principal{Name: t.Name, Tenant: t.Tenant, Scope: t.Scope, Token: t.ID}, true
}

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)

// Create makes a token and returns its text, which is kept nowhere.
func (b *Book) Create(ctx context.Context, name string, scope auth.Scope, life time.Duration) (string, Token, error) {
	if !nameRE.MatchString(name) || name == "owner" || name == auth.Anonymous.Name {
		return "", Token{}, &serving.Error{Op: "create token", Kind: serving.Invalid,
			Err: fmt.Errorf("name %.80q must match %s and not be owner or anonymous", name, nameRE)}
	}
	if life < 0 {
		return "", Token{}, &serving.Error{Op: "create token", Kind: serving.Invalid, Err: errors.New("the lifetime is negative")}
	}
	text, err := fresh()
	if err != nil {
		return "", Token{}, err
	}
	hash := sha256.Sum256([]byte(text))
	t := Token{ID: hex.EncodeToString(hash[:4]), Name: name, Tenant: "default", Scope: scope, Created: b.now().UTC(), Hash: hash}
	if life > 0 {
		t.Expires = t.Created.Add(life)
	}
	data, err := json.Marshal(t)
	if err != nil {
		return "", Token{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.drawer.Put(ctx, t.ID, data); err != nil {
		return "", Token{}, fmt.Errorf("keep token: %w", err)
	}
	b.known[hash] = t
	return text, t, nil
}

// List returns the tokens, oldest first.
func (b *Book) List() []Token {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var list []Token
	for _, t := range b.known {
		list = append(list, t)
	}
	slices.SortFunc(list, func(x, y Token) int {
		return cmp.Or(x.Created.Compare(y.Created), strings.Compare(x.ID, y.ID))
	})
	return list
}

// Revoke ends the token of an ID at once.
func (b *Book) Revoke(ctx context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for hash, t := range b.known {
		if t.ID != id {
			continue
		}
		if err := b.drawer.Delete(ctx, id); err != nil {
			return fmt.Errorf("revoke token %s: %w", id, err)
		}
		delete(b.known, hash)
		return nil
	}
	return &serving.Error{Op: "revoke token", Subject: id, Kind: serving.NotFound, Fix: "loadline token list"}
}

func fresh() (string, error) {
	secret := make([]byte, secretSize)
	if _, err := rand.Read(secret); err != nil {
		return "", err
	}
	return prefix + base64.RawURLEncoding.EncodeToString(secret), nil
}

// ownerToken reads the owner's token, or makes one that only its user can read.
func ownerToken(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		text := strings.TrimSpace(string(data))
		if len(text) < 20 {
			return "", &serving.Error{Op: "read owner's token", Subject: path, Kind: serving.Invalid,
				Err: errors.New("it is too short to be one"), Fix: "rm " + path + " # a new one is made at the next start"}
		}
		return text, os.Chmod(path, 0o600)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	text, err := fresh()
	if err != nil {
		return "", err
	}
	// Written aside and renamed, so that a reader never sees half of it.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".token-*") // mode 0600
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.WriteString(text + "\n"); err != nil {
		return "", errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return "", err
	}
	return text, os.Rename(tmp.Name(), path)
}
