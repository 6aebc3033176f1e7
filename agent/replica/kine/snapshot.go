package kine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"

	"modernc.org/sqlite"
)

// snapshotPages are copied in one go; between two the copy's writer is not held up.
const snapshotPages = 256

// Snapshot copies a database page by page to dst, which must not be there yet, as it is at
// one moment, also while somebody writes it. What is in dst afterwards is one file.
func Snapshot(ctx context.Context, path, dst string) error {
	fail := func(err error) error { return fmt.Errorf("copy %s to %s: %w", path, dst, err) }
	if _, err := os.Stat(dst); err == nil {
		return fail(os.ErrExist)
	}
	db, err := openReadOnly(ctx, path)
	if err != nil {
		return fail(err)
	}
	defer db.Close()
	to, err := dsn(dst, "rwc", "synchronous(OFF)")
	if err != nil {
		return fail(err)
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	// One read transaction around all steps: without it each write begins the copy anew.
	tx, err := conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return fail(err)
	}
	defer tx.Rollback()
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master`).Scan(&n); err != nil {
		return fail(err)
	}
	if err := conn.Raw(func(c any) error { return backup(ctx, c, to) }); err != nil {
		return fail(err)
	}
	return nil
}

func backup(ctx context.Context, conn any, to string) error {
	c, ok := conn.(interface {
		NewBackup(dst string) (*sqlite.Backup, error)
	})
	if !ok {
		return errors.New("the SQLite driver cannot copy a database")
	}
	b, err := c.NewBackup(to)
	if err != nil {
		return err
	}
	for more := true; more && err == nil; {
		if err = ctx.Err(); err == nil {
			more, err = b.Step(snapshotPages)
		}
	}
	return errors.Join(err, b.Finish())
}
