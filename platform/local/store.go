// Package local runs replicas as processes of this machine and keeps wishes in
// a SQLite file beside them.
//
// A [Platform] starts one agent process per replica, in a session of its own,
// so that replicas outlive the process that started them; the next one adopts
// them. A [Store] acknowledges a write only when it is on the disk.
//
// # What it does not do
//
// It does not prepare models, know what an engine is, or carry requests: an
// agent is any program that reads spec.json in its folder and keeps state.json
// there.
package local

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/serving"
)

// A Store keeps endpoints, and small values in drawers, in one SQLite file. It
// is safe for concurrent use; one writer at a time is all that SQLite has, and
// readers never wait for it.
type Store struct {
	path   string
	read   *sql.DB
	write  *sql.DB
	writes control.Listeners[control.Key]
}

var _ control.Store = (*Store)(nil)

// OpenStore opens the file at path, making it when there is none. A damaged
// file is set aside under a name of its own and reported; the store does not
// begin anew by itself.
func OpenStore(ctx context.Context, path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := refuseAfterQuarantine(path); err != nil {
		return nil, err
	}
	// SQLite would make the file readable for everybody.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, &serving.Error{Op: "open store", Subject: path, Kind: serving.Unavailable, Err: err}
	}
	f.Close()
	s := &Store{path: path}
	if s.write, err = sql.Open("sqlite", dsn(path)); err != nil {
		return nil, err
	}
	s.write.SetMaxOpenConns(1)
	if s.read, err = sql.Open("sqlite", dsn(path)); err != nil {
		s.write.Close()
		return nil, err
	}
	s.read.SetMaxOpenConns(4)
	if err := s.ready(ctx); err != nil {
		s.Close()
		if damaged(err) {
			err = quarantine(path, err)
		}
		return nil, err
	}
	return s, nil
}

func dsn(path string) string {
	u := url.URL{Scheme: "file", Path: path}
	pragmas := url.Values{"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)"}, "_txlock": {"immediate"}}
	return u.String() + "?" + pragmas.Encode()
}

// ready checks the file and brings it to the newest schema.
func (s *Store) ready(ctx context.Context) error {
	var verdict string
	if err := s.write.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return damage(verdict)
	}
	return migrate(ctx, s.write, s.path)
}

// Close ends all use of the file.
func (s *Store) Close() error { return errors.Join(s.read.Close(), s.write.Close()) }

// Create implements [control.Store].
func (s *Store) Create(ctx context.Context, e serving.Endpoint) (serving.Endpoint, error) {
	e.Version = 1
	text, err := json.Marshal(e)
	if err != nil {
		return serving.Endpoint{}, err
	}
	done, err := s.write.ExecContext(ctx, `INSERT INTO endpoints (tenant, folded, name, version, record, sum)
		VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`, e.Tenant, strings.ToLower(e.Name), e.Name, e.Version, text, sumOf(text))
	if err != nil {
		return serving.Endpoint{}, s.explain("create", e.Name, err)
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		return serving.Endpoint{}, &serving.Error{Op: "create", Subject: e.Name, Kind: serving.Exists, Err: err}
	}
	s.writes.Tell(control.Key{Tenant: e.Tenant, Name: e.Name})
	return decode(text)
}

// Update implements [control.Store].
func (s *Store) Update(ctx context.Context, e serving.Endpoint) (serving.Endpoint, error) {
	expected := e.Version
	e.Version++
	text, err := json.Marshal(e)
	if err != nil {
		return serving.Endpoint{}, err
	}
	done, err := s.write.ExecContext(ctx, `UPDATE endpoints SET version = ?, record = ?, sum = ?
		WHERE tenant = ? AND name = ? AND version = ?`, e.Version, text, sumOf(text), e.Tenant, e.Name, expected)
	if err := s.hit(ctx, "update", e.Tenant, e.Name, expected, done, err); err != nil {
		return serving.Endpoint{}, err
	}
	return decode(text)
}

// Delete implements [control.Store].
func (s *Store) Delete(ctx context.Context, tenant, name string, version int64) error {
	done, err := s.write.ExecContext(ctx, `DELETE FROM endpoints WHERE tenant = ? AND name = ? AND version = ?`, tenant, name, version)
	return s.hit(ctx, "delete", tenant, name, version, done, err)
}

// hit explains a write that met no record of the expected version.
func (s *Store) hit(ctx context.Context, op, tenant, name string, version int64, done sql.Result, err error) error {
	if err != nil {
		return s.explain(op, name, err)
	}
	n, err := done.RowsAffected()
	if err != nil {
		return s.explain(op, name, err)
	}
	if n > 0 {
		s.writes.Tell(control.Key{Tenant: tenant, Name: name})
		return nil
	}
	there, err := s.Get(ctx, tenant, name)
	if err != nil {
		return err
	}
	return &serving.Error{Op: op, Subject: name, Kind: serving.Conflict,
		Err: fmt.Errorf("version %d was read, %d is there", version, there.Version)}
}

// Get implements [control.Store].
func (s *Store) Get(ctx context.Context, tenant, name string) (serving.Endpoint, error) {
	var text []byte
	var sum uint32
	err := s.read.QueryRowContext(ctx, `SELECT record, sum FROM endpoints WHERE tenant = ? AND name = ?`, tenant, name).Scan(&text, &sum)
	if errors.Is(err, sql.ErrNoRows) {
		return serving.Endpoint{}, &serving.Error{Op: "endpoint", Subject: name, Kind: serving.NotFound}
	}
	if err != nil {
		return serving.Endpoint{}, s.explain("read", name, err)
	}
	if sum != sumOf(text) {
		return serving.Endpoint{}, s.altered("record of " + name)
	}
	return decode(text)
}

// List implements [control.Store].
func (s *Store) List(ctx context.Context, tenant string) ([]serving.Endpoint, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT name, record, sum FROM endpoints WHERE tenant = ?1 OR ?1 = '' ORDER BY tenant, name`, tenant)
	if err != nil {
		return nil, s.explain("list", "endpoints", err)
	}
	defer rows.Close()
	var list []serving.Endpoint
	for rows.Next() {
		var name string
		var text []byte
		var sum uint32
		if err := rows.Scan(&name, &text, &sum); err != nil {
			return nil, s.explain("list", "endpoints", err)
		}
		if sum != sumOf(text) {
			return nil, s.altered("record of " + name)
		}
		e, err := decode(text)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, s.explain("list", "endpoints", err)
	}
	return list, nil
}

// Watch implements [control.Store].
func (s *Store) Watch(ctx context.Context) <-chan control.Key { return s.writes.Listen(ctx) }

func decode(text []byte) (e serving.Endpoint, err error) {
	err = json.Unmarshal(text, &e)
	return e, err
}

// sumOf lets a bit that flips inside a page be noticed: SQLite checks the shape
// of its pages, not what is in them.
func sumOf(text []byte) uint32 { return crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) }

func (s *Store) altered(what string) error {
	return &serving.Error{Op: "read", Subject: what, Kind: serving.Internal,
		Err: fmt.Errorf("its checksum does not fit: %s is damaged", s.path), Fix: "restore " + s.path + " from a copy"}
}

// explain says what the caller can do about trouble with the file: a full or
// read-only disk passes, and reads go on meanwhile.
func (s *Store) explain(op, subject string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	kind, fix := serving.Internal, ""
	switch code(err) {
	case sqlite3.SQLITE_FULL:
		kind, fix = serving.Unavailable, "free some space on the disk of "+filepath.Dir(s.path)
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM:
		kind, fix = serving.Unavailable, "check that "+filepath.Dir(s.path)+" can be written: loadline doctor"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		kind, fix = serving.Unavailable, "try again in a moment"
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		fix = "restore " + s.path + " from a copy"
	}
	return &serving.Error{Op: op, Subject: subject, Kind: kind, Err: err, Fix: fix}
}

// code returns SQLite's primary result code, or -1 for an error that is not its.
func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return -1
}

// damage is what quick_check found.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(err error) bool {
	_, found := errors.AsType[damage](err)
	return found || slices.Contains([]int{sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}, code(err))
}

// quarantine sets a damaged file aside, its journal with it.
func quarantine(path string, found error) error {
	aside := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000")
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return &serving.Error{Op: "open store", Subject: path, Kind: serving.Internal,
				Err: fmt.Errorf("damaged (%w) and cannot be set aside: %w", found, err)}
		}
	}
	return quarantined(path, aside, found.Error())
}

// refuseAfterQuarantine keeps a restart from silently beginning with nothing
// after a damaged file was set aside.
func refuseAfterQuarantine(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	aside, err := filepath.Glob(path + ".corrupt-*")
	aside = slices.DeleteFunc(aside, func(p string) bool { return strings.HasSuffix(p, "-wal") || strings.HasSuffix(p, "-shm") })
	if err != nil || len(aside) == 0 {
		return err
	}
	return quarantined(path, aside[len(aside)-1], "found by an earlier start")
}

func quarantined(path, aside, found string) error {
	return &serving.Error{Op: "open store", Subject: path, Kind: serving.Internal,
		Err: fmt.Errorf("the file is damaged (%s); it was set aside as %s", found, aside),
		Fix: "restore a copy as " + path + ", or move " + aside + " away to begin without endpoints"}
}
