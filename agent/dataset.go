package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"relevo.dev/relevo/agent/replica/files"
	"relevo.dev/relevo/agent/replica/kine"
)

// dataset is the datastore and the identity of this host's control plane, and the
// copy that may replace them.
type dataset struct {
	path     string   // the control plane's own kine database
	base     string   // of k3s: its data directory, in which path's folder is made; "" = it must be there
	copy     string   // the standby's copy of the master's
	mirror   string   // the standby's mirror of the identity
	identity []string // what belongs to it
	ca       string   // the API's CA; "" = it is asked without TLS
	// source lets go of the database while it is moved.
	source interface {
		Pause()
		Resume()
	}
}

// Verify finds out that the copy can be used, before anything is touched.
func (d *dataset) Verify(ctx context.Context) error {
	info, err := kine.Verify(ctx, d.copy, false)
	if errors.Is(err, fs.ErrNotExist) {
		// Cut off right after it was moved? Install knows for which term.
		if own, ownErr := kine.Verify(ctx, d.path, false); ownErr == nil && own.Notes.Installed != 0 {
			return nil
		}
	}
	if err != nil {
		return err
	}
	if !info.Notes.Complete {
		return errors.New("the first copy from a master never came to its end")
	}
	// A k3s agent that never was a server has not the folders of one. The data directory
	// itself is not made: it may be a disk that is not mounted.
	if dir := filepath.Dir(d.path); d.base != "" && strings.HasPrefix(dir, d.base+"/") {
		if _, err := os.Stat(d.base); err != nil {
			return fmt.Errorf("look at the data directory: %w", err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the folder of the datastore: %w", err)
		}
	}
	if err := d.Certificates(time.Now()); err != nil {
		return err
	}
	return d.Room(ctx)
}

// Room finds out whether there is room for the copy at the datastore's path.
func (d *dataset) Room(context.Context) error {
	path := d.path
	if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) && d.base != "" {
		path = filepath.Join(d.base, filepath.Base(path)) // Verify makes the folders below it
	}
	return kine.CheckSpace(d.copy, path)
}

// Aside keeps what lies at the control plane's path.
func (d *dataset) Aside(ctx context.Context, term uint64) error {
	d.source.Pause()
	_, err := kine.Aside(ctx, d.path, term)
	return err
}

// Install puts the copy and the identity in place.
func (d *dataset) Install(ctx context.Context, term uint64) error {
	if len(d.identity) > 0 {
		if _, err := files.Install(ctx, d.mirror, d.identity); err != nil {
			return err
		}
	}
	return kine.Install(ctx, d.copy, d.path, term)
}

// Bump jumps the revisions ahead by one gap for every term since the datastore's
// own: also what a term in between wrote and lost is behind it.
func (d *dataset) Bump(ctx context.Context, term, from uint64) error {
	if from == 0 || from >= term {
		from = term - 1
	}
	if _, err := kine.Bump(ctx, d.path, term, int64(term-from)*kine.Gap); err != nil {
		return err
	}
	d.source.Resume()
	return nil
}

// CopyTerm is the term of the master that the copy is of; 0 if there is none.
func (d *dataset) CopyTerm(ctx context.Context) (uint64, error) {
	for _, p := range []string{d.copy, d.path} {
		info, err := kine.Verify(ctx, p, false)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return info.Notes.Term, err
	}
	return 0, nil
}

// Left is how much room the control plane's datastore has.
func (d *dataset) Left(context.Context) (free, total uint64, err error) {
	return kine.Left(filepath.Dir(d.path))
}

// OwnRevision is the newest revision at the control plane's own path, 0 if there
// is no datastore.
func (d *dataset) OwnRevision(ctx context.Context) (uint64, error) {
	if _, err := os.Stat(d.path); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	r, err := kine.OpenReader(ctx, d.path)
	if err != nil {
		return 0, fmt.Errorf("look at this host's own datastore: %w", err)
	}
	defer r.Close()
	m, err := r.Marks(ctx)
	if err != nil {
		return 0, fmt.Errorf("look at this host's own datastore: %w", err)
	}
	return uint64(m.Head), nil
}
