package local

import (
	"context"
	"database/sql"
	"fmt"

	"loadline.dev/loadline/serving"
)

// schema lists what turns version i of the file into version i+1. What is here
// is never edited: files of users are at every version.
var schema = []string{
	`CREATE TABLE endpoints (
		tenant  TEXT    NOT NULL,
		folded  TEXT    NOT NULL, -- the name in lower case: names differ by more than case
		name    TEXT    NOT NULL,
		version INTEGER NOT NULL,
		record  BLOB    NOT NULL,
		sum     INTEGER NOT NULL,
		PRIMARY KEY (tenant, folded)
	) WITHOUT ROWID;
	CREATE TABLE drawers (
		bucket TEXT    NOT NULL,
		key    TEXT    NOT NULL,
		value  BLOB    NOT NULL,
		sum    INTEGER NOT NULL,
		PRIMARY KEY (bucket, key)
	) WITHOUT ROWID;`,
}

// migrate brings the file to the newest schema, each version in a transaction
// of its own.
func migrate(ctx context.Context, db *sql.DB, path string) error {
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(schema) {
		return &serving.Error{Op: "open store", Subject: path, Kind: serving.Invalid,
			Err: fmt.Errorf("it was written by a newer loadline (schema %d; this one knows %d)", version, len(schema)),
			Fix: "use the newer loadline"}
	}
	for ; version < len(schema); version++ {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, schema[version]); err == nil {
			_, err = tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version+1))
		}
		if err != nil {
			_ = tx.Rollback()
			return fmt.Errorf("bring %s to schema %d: %w", path, version+1, err)
		}
		if err := tx.Commit(); err != nil {
			return err
		}
	}
	return nil
}
