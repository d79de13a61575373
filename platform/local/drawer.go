package local

import (
	"context"
	"database/sql"
	"errors"

	"loadline.dev/loadline/control"
	"loadline.dev/loadline/serving"
)

// A Drawer is one bucket of small values in the store's file.
type Drawer struct {
	store  *Store
	bucket string
}

var _ control.Drawer = Drawer{}

// Drawer returns the bucket of that name; buckets share no keys.
func (s *Store) Drawer(bucket string) Drawer { return Drawer{s, bucket} }

// Get implements [control.Drawer].
func (d Drawer) Get(ctx context.Context, key string) ([]byte, error) {
	var value []byte
	var sum uint32
	err := d.store.read.QueryRowContext(ctx, `SELECT value, sum FROM drawers WHERE bucket = ? AND key = ?`, d.bucket, key).Scan(&value, &sum)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, &serving.Error{Op: "get", Subject: d.bucket + "/" + key, Kind: serving.NotFound}
	case err != nil:
		return nil, d.store.explain("get", d.bucket+"/"+key, err)
	case sum != sumOf(value):
		return nil, d.store.altered(d.bucket + "/" + key)
	}
	return value, nil
}

// Put implements [control.Drawer].
func (d Drawer) Put(ctx context.Context, key string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	_, err := d.store.write.ExecContext(ctx, `INSERT INTO drawers (bucket, key, value, sum) VALUES (?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET value = excluded.value, sum = excluded.sum`, d.bucket, key, value, sumOf(value))
	if err != nil {
		return d.store.explain("put", d.bucket+"/"+key, err)
	}
	return nil
}

// Delete implements [control.Drawer].
func (d Drawer) Delete(ctx context.Context, key string) error {
	if _, err := d.store.write.ExecContext(ctx, `DELETE FROM drawers WHERE bucket = ? AND key = ?`, d.bucket, key); err != nil {
		return d.store.explain("delete", d.bucket+"/"+key, err)
	}
	return nil
}

// Keys implements [control.Drawer].
func (d Drawer) Keys(ctx context.Context, prefix string) ([]string, error) {
	rows, err := d.store.read.QueryContext(ctx, `SELECT key FROM drawers WHERE bucket = ?1 AND substr(key, 1, length(?2)) = ?2 ORDER BY key`, d.bucket, prefix)
	if err != nil {
		return nil, d.store.explain("list", d.bucket, err)
	}
	defer rows.Close()
	var keys []string
	for rows.Next() {
		var key string
		if err := rows.Scan(&key); err != nil {
			return nil, d.store.explain("list", d.bucket, err)
		}
		keys = append(keys, key)
	}
	if err := rows.Err(); err != nil {
		return nil, d.store.explain("list", d.bucket, err)
	}
	return keys, nil
}
