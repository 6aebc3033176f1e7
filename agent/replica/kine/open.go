package kine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"modernc.org/sqlite" // registers the driver "sqlite"; pure Go, so that CGO stays off
)

// dsn builds the file: URI of a database. Pragmas are "name(value)".
func dsn(path, mode string, pragmas ...string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	q := url.Values{}
	q.Set("mode", mode)
	for _, p := range pragmas {
		q.Add("_pragma", p)
	}
	if mode != "ro" {
		q.Set("_txlock", "immediate")
	}
	return "file://" + (&url.URL{Path: abs}).EscapedPath() + "?" + q.Encode(), nil
}

// openReadOnly opens for reading only. It takes SQLite's read locks in the -shm
// file (that is what keeps a checkpoint from pulling the WAL away under a
// reader) but can neither write, nor checkpoint, nor, on closing, remove the
// WAL: its descriptor of the database file is read-only.
func openReadOnly(ctx context.Context, path string) (*sql.DB, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	name, err := dsn(path, "ro", "busy_timeout(5000)", "query_only(1)", "cache_size(-1024)")
	if err != nil {
		return nil, err
	}
	return open(ctx, name)
}

// openReadWrite opens for writing; create makes the file if it is not there.
func openReadWrite(ctx context.Context, path string, create bool, pragmas ...string) (*sql.DB, error) {
	mode := "rw"
	if create {
		mode = "rwc"
	}
	name, err := dsn(path, mode, append([]string{"busy_timeout(5000)"}, pragmas...)...)
	if err != nil {
		return nil, err
	}
	return open(ctx, name)
}

func open(ctx context.Context, name string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // one connection: little memory, and no one waits for a lock of our own
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// IsCorrupt says whether the error means that the file is damaged, not merely
// busy or out of reach.
func IsCorrupt(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return errors.Is(err, errDamaged)
	}
	switch e.Code() & 0xff {
	case 11, 26: // SQLITE_CORRUPT, SQLITE_NOTADB
		return true
	}
	return false
}

// isConstraint says whether rows did not fit an index.
func isConstraint(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == 19 // SQLITE_CONSTRAINT
}

var errDamaged = errors.New("the database is damaged")

// check runs SQLite's own check; full also compares indexes with the table.
func check(ctx context.Context, q querier, full bool) error {
	pragma := "PRAGMA quick_check(1)"
	if full {
		pragma = "PRAGMA integrity_check(1)"
	}
	var res string
	if err := q.QueryRowContext(ctx, pragma).Scan(&res); err != nil {
		return fmt.Errorf("check the database: %w", err)
	}
	if res != "ok" {
		return fmt.Errorf("%w: %s", errDamaged, strings.TrimSpace(res))
	}
	return nil
}

// fileID tells one file from another that was put in its place.
type fileID struct{ dev, ino uint64 }

// identify uses stat only: to open and close the file here would drop the
// POSIX locks that SQLite holds on it in this process.
func identify(path string) (fileID, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return fileID{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, fmt.Errorf("stat %s: %w", path, fs.ErrInvalid)
	}
	return fileID{uint64(st.Dev), uint64(st.Ino)}, nil
}
