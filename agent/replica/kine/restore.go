package kine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"relevo.dev/relevo/agent/durable"
)

// Info is what Verify found in a database.
type Info struct {
	Schema  Schema
	MaxID   int64 // newest revision
	Compact int64 // compacted up to here
	Bytes   int64 // database and WAL
	Notes   Notes
}

// Verify checks a database that nobody writes: SQLite's quick_check, or
// integrity_check if full (several times slower; for rehearsals), kine's
// layout, and that it holds at least kine's own compact_rev_key.
func Verify(ctx context.Context, path string, full bool) (Info, error) {
	var in Info
	db, err := openReadOnly(ctx, path)
	if err != nil {
		return in, fmt.Errorf("verify %s: %w", path, err)
	}
	defer db.Close()
	if in.Schema, err = readSchema(ctx, db); err != nil {
		return in, fmt.Errorf("verify %s: %w", path, err)
	}
	if err := check(ctx, db, full); err != nil {
		return in, fmt.Errorf("verify %s: %w", path, err)
	}
	if in.Notes, err = readNotes(ctx, db); err != nil {
		return in, fmt.Errorf("verify %s: %w", path, err)
	}
	m, err := readMarks(ctx, db)
	if err != nil {
		return in, fmt.Errorf("verify %s: %w", path, err)
	}
	if len(m.Compacts) == 0 {
		return in, fmt.Errorf("verify %s: no row %s in it: kine never ran on it, or the copy is not complete", path, CompactKey)
	}
	in.MaxID, in.Compact = m.Head, m.Compact
	for _, suffix := range []string{"", "-wal"} {
		if fi, err := os.Stat(path + suffix); err == nil {
			in.Bytes += fi.Size()
		}
	}
	return in, nil
}

// spaceMargin is left free beside a restored datastore for kine's WAL.
const spaceMargin = 32 << 20

// CheckSpace says whether the folder of dst has room for the copy: nothing but
// a margin on the same file system, where it is only renamed.
func CheckSpace(copyPath, dst string) error {
	from, err := os.Stat(copyPath)
	if err != nil {
		return fmt.Errorf("check the space for %s: %w", dst, err)
	}
	dir, err := os.Stat(filepath.Dir(dst))
	if err != nil {
		return fmt.Errorf("check the space for %s: %w", dst, err)
	}
	need := int64(spaceMargin)
	if a, ok := from.Sys().(*syscall.Stat_t); ok {
		if b, ok := dir.Sys().(*syscall.Stat_t); ok && a.Dev != b.Dev {
			need += from.Size()
		}
	}
	return Room(filepath.Dir(dst), need)
}

// Left is what the file system of a folder can still take, and all that it has, in bytes.
func Left(dir string) (free, total uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, 0, fmt.Errorf("check the space in %s: %w", dir, err)
	}
	return fs.Bavail * uint64(fs.Bsize), fs.Blocks * uint64(fs.Bsize), nil
}

// Room says whether the file system of a folder has so many bytes left.
func Room(dir string, need int64) error {
	free, _, err := Left(dir)
	if err != nil {
		return err
	}
	if int64(free) < need {
		return fmt.Errorf("not enough space in %s: %d MiB are free, %d MiB are needed; make room on that file system", dir, free>>20, need>>20)
	}
	return nil
}

// Aside moves the datastore at path (database, WAL, shared memory) to
// `<path>.relevo-aside-<term>-<n>`, and removes older ones (see KeepTerms). It
// returns where the datastore lies, "" if there was none.
//
// It may be called again after a crash at any point: it finishes a move that
// was begun, and leaves a datastore alone that Install has put there for the
// same term. Nobody may have the database open.
func Aside(ctx context.Context, path string, term uint64) (string, error) {
	list, err := asides(path)
	if err != nil {
		return "", fmt.Errorf("set %s aside: %w", path, err)
	}
	var newest string
	next := 1
	for _, a := range list {
		if a.term == term {
			newest, next = a.path, a.n+1
		}
	}
	_, err = os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && newest != "":
		// the database was moved already; its WAL may not have been
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("set %s aside: %w", path, err)
	case installedFor(ctx, path, term):
		return newest, nil
	default:
		newest = fmt.Sprintf("%s.relevo-aside-%d-%d", path, term, next)
		// The database first: a WAL without a database is nothing, a database
		// without its WAL would be an older state that looks whole.
		if err := os.Rename(path, newest); err != nil {
			return "", fmt.Errorf("set %s aside: %w", path, err)
		}
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Rename(path+suffix, newest+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("set %s aside: %w", path, err)
		}
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return "", fmt.Errorf("set %s aside: %w", path, err)
	}
	return newest, prune(path)
}

// installedFor says whether the database was put there by Install for term. A
// database that cannot be read was not.
func installedFor(ctx context.Context, path string, term uint64) bool {
	db, err := openReadOnly(ctx, path)
	if err != nil {
		return false
	}
	defer db.Close()
	n, err := readNotes(ctx, db)
	return err == nil && term != 0 && n.Installed == term
}

// Install puts the copy at dst, where Aside has made room, with the owner and
// mode of the datastore that lay there (or the owner of the folder and 0600).
// On one file system it is a rename and the copy is gone; across file systems
// a copy, fsync and rename. After a crash it may be called again: once the
// database at dst is the one for this term, it does nothing.
func Install(ctx context.Context, copyPath, dst string, term uint64) error {
	fail := func(err error) error { return fmt.Errorf("install %s as %s: %w", copyPath, dst, err) }
	if _, err := os.Stat(dst); err == nil {
		if installedFor(ctx, dst, term) {
			return syncDir(filepath.Dir(dst))
		}
		return fail(errors.New("a datastore lies there; it must be set aside first"))
	}
	if _, err := os.Stat(dst + "-wal"); err == nil {
		return fail(errors.New("the WAL of another database lies there; it must be set aside first"))
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return fail(err)
	}
	if err := seal(ctx, copyPath, term); err != nil {
		return fail(err)
	}
	uid, gid, mode, err := likeOld(dst)
	if err != nil {
		return fail(err)
	}
	src := copyPath
	if err := own(src, uid, gid, mode); err != nil {
		return fail(err)
	}
	err = os.Rename(src, dst)
	if errors.Is(err, syscall.EXDEV) {
		tmp := dst + ".relevo-new"
		if err := copyFile(ctx, src, tmp, mode); err != nil {
			return fail(err)
		}
		if err := own(tmp, uid, gid, mode); err != nil {
			return fail(err)
		}
		err = os.Rename(tmp, dst)
	}
	if err != nil {
		return fail(err)
	}
	if err := syncDir(filepath.Dir(dst)); err != nil {
		return fail(err)
	}
	return nil
}

// seal brings all of the copy into its one file, and notes for which term it
// is going to be installed.
func seal(ctx context.Context, path string, term uint64) error {
	db, err := openReadWrite(ctx, path, false, "synchronous(FULL)")
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := readSchema(ctx, db); err != nil {
		return err
	}
	n, err := readNotes(ctx, db)
	if err != nil {
		return err
	}
	if n.Installed != term {
		n.Installed = term
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err := writeNotes(ctx, tx, n); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		if err := tx.Commit(); err != nil {
			return err
		}
	}
	return closeWhole(ctx, path, db)
}

// readersLeave is how long closeWhole waits for somebody who only reads, such
// as `relevo diff-lost`, which holds the database for moments.
const readersLeave = time.Second

// closeWhole checkpoints everything, closes, and makes sure that no WAL is
// left: from here on the database is its one file, on disk.
func closeWhole(ctx context.Context, path string, db *sql.DB) error {
	for begin := time.Now(); ; {
		if err := checkpoint(ctx, db); err != nil {
			return errors.Join(err, db.Close())
		}
		if err := db.Close(); err != nil {
			return err
		}
		// The last connection takes the WAL away when it closes, if it may write.
		if _, err := os.Stat(path + "-wal"); err != nil {
			return syncFile(path)
		}
		if time.Since(begin) > readersLeave {
			return fmt.Errorf("%s-wal is still there: somebody else has the database open", path)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(readersLeave / 20):
		}
		var err error
		if db, err = openReadWrite(ctx, path, false, "synchronous(FULL)"); err != nil {
			return err
		}
	}
}

// likeOld looks up owner and mode of the newest datastore moved aside from dst.
func likeOld(dst string) (uid, gid int, mode os.FileMode, err error) {
	list, err := asides(dst)
	if err != nil {
		return 0, 0, 0, err
	}
	like, mode := filepath.Dir(dst), os.FileMode(0o600)
	fi, err := os.Stat(like)
	if len(list) > 0 {
		if old, oerr := os.Stat(list[len(list)-1].path); oerr == nil {
			fi, err, mode = old, nil, old.Mode().Perm()
		}
	}
	if err != nil {
		return 0, 0, 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, 0, fmt.Errorf("no owner of %s", like)
	}
	return int(st.Uid), int(st.Gid), mode, nil
}

func own(path string, uid, gid int, mode os.FileMode) error {
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	return durable.GiveTo(path, uid, gid)
}

func copyFile(ctx context.Context, from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	for err == nil && ctx.Err() == nil {
		_, err = io.CopyN(out, in, 8<<20)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, ctx.Err(), out.Sync(), out.Close())
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncDir(path string) error { return syncFile(path) }
