package tokens_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"loadline.dev/loadline/auth"
	"loadline.dev/loadline/auth/tokens"
	"loadline.dev/loadline/serving"
)

type drawer map[string][]byte

func (d drawer) Get(_ context.Context, key string) ([]byte, error) {
	if v, ok := d[key]; ok {
		return v, nil
	}
	return nil, &serving.Error{Kind: serving.NotFound}
}
func (d drawer) Put(_ context.Context, key string, value []byte) error { d[key] = value; return nil }
func (d drawer) Delete(_ context.Context, key string) error            { delete(d, key); return nil }
func (d drawer) Keys(context.Context, string) ([]string, error) {
	return slices.Collect(maps.Keys(d)), nil
}

func open(t *testing.T, d drawer, file string, now *time.Time) *tokens.Book {
	t.Helper()
	b, err := tokens.Open(t.Context(), d, file, func() time.Time { return *now })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOwnersTokenIsMadeOnceAndForTheOwnerAlone(t *testing.T) {
	now, file := time.Unix(1e9, 0), filepath.Join(t.TempDir(), "token")
	open(t, drawer{}, file, &now)
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(file); info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, want 0600", info.Mode())
	}
	b := open(t, drawer{}, file, &now)
	second, _ := os.ReadFile(file)
	if string(first) != string(second) {
		t.Error("a second start made another token")
	}
	who, ok := b.Find(strings.TrimSpace(string(second)))
	if !ok || !who.Owner || who.Scope != auth.Admin {
		t.Errorf("the owner is %+v, %v", who, ok)
	}
}

func TestTokenIsKnownUntilItIsRevokedAndAcrossStarts(t *testing.T) {
	now, file, d := time.Unix(1e9, 0), filepath.Join(t.TempDir(), "token"), drawer{}
	b := open(t, d, file, &now)
	text, made, err := b.Create(t.Context(), "ci", auth.Query, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, kept := range d {
		if strings.Contains(string(kept), text) {
			t.Error("the token's text is kept")
		}
	}
	again := open(t, d, file, &now)
	if who, ok := again.Find(text); !ok || who.Name != "ci" || who.Scope != auth.Query || who.Owner {
		t.Errorf("after a restart it is %+v, %v", who, ok)
	}
	if _, ok := again.Find(text + "x"); ok {
		t.Error("a longer text is taken for it")
	}
	if err := again.Revoke(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	if _, ok := again.Find(text); ok {
		t.Error("it is known after it was revoked")
	}
	if err := again.Revoke(t.Context(), made.ID); !errors.Is(err, serving.NotFound) {
		t.Errorf("revoking twice: %v", err)
	}
	if n := len(open(t, d, file, &now).List()); n != 0 {
		t.Errorf("%d tokens are left", n)
	}
}

func TestTokenEndsWhenItsLifeDoes(t *testing.T) {
	now, file := time.Unix(1e9, 0), filepath.Join(t.TempDir(), "token")
	b := open(t, drawer{}, file, &now)
	text, _, err := b.Create(t.Context(), "short", auth.View, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour - 1)
	if _, ok := b.Find(text); !ok {
		t.Error("it ended early")
	}
	now = now.Add(1)
	if _, ok := b.Find(text); ok {
		t.Error("it lives on")
	}
}

func TestNamesThatWouldMisleadAreRefused(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := open(t, drawer{}, filepath.Join(t.TempDir(), "token"), &now)
	for _, name := range []string{"", "owner", "anonymous", "a b", "a\nb", strings.Repeat("x", 100)} {
		if _, _, err := b.Create(t.Context(), name, auth.View, 0); !errors.Is(err, serving.Invalid) {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	book, err := tokens.Open(b.Context(), drawer{}, filepath.Join(b.TempDir(), "token"), time.Now)
	if err != nil {
		b.Fatal(err)
	}
	text, _, err := book.Create(b.Context(), "ci", auth.Query, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		book.Find(text)
	}
}
