package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Mirror keeps an identity by content:
//
//	<dir>/manifest.json   what it consists of; written last
//	<dir>/blobs/<sha256>  the files
//
// Paths of the master's never become paths here, and a manifest that is there
// is complete: a new one replaces it only when all its files are.
type Mirror struct {
	dir  string
	spec Spec
	now  func() time.Time // wall clock

	mu    sync.Mutex
	man   *Manifest
	certs []Cert
}

// NewMirror prepares a mirror in dir; spec is what this host takes as identity. Load
// reads what is there.
func NewMirror(dir string, spec Spec) *Mirror { return &Mirror{dir: dir, spec: spec, now: time.Now} }

// Certificates are those of the complete identity here.
func (m *Mirror) Certificates() []Cert {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.certs
}

// Vanished are the files that the master has lost and that are kept here.
func (m *Mirror) Vanished() []Kept {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.man == nil {
		return nil
	}
	return m.man.Kept
}

// set takes a manifest as that of the identity here; nil is none.
func (m *Mirror) set(man *Manifest) {
	var certs []Cert
	if man != nil {
		certs = certificates(man, m.read)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.man, m.certs = man, certs
}

func (m *Mirror) read(e *Entry) ([]byte, error) { return os.ReadFile(blob(m.dir, e.SHA256)) }

// Expire forgets what the master lost long enough ago; it writes only then.
func (m *Mirror) Expire() error {
	m.mu.Lock()
	man := m.man
	m.mu.Unlock()
	if man == nil || !man.expired(m.now()) {
		return nil
	}
	now := *man
	now.keep(&Manifest{Kept: man.Kept}, nil, m.now())
	return m.replace(&now)
}

// replace writes a manifest whose files are all here, and removes what is of no use any
// more.
func (m *Mirror) replace(man *Manifest) error {
	data, err := json.Marshal(man)
	if err != nil {
		return fmt.Errorf("mirror the identity: %w", err)
	}
	if err := syncDir(filepath.Join(m.dir, "blobs")); err != nil {
		return fmt.Errorf("mirror the identity: %w", err)
	}
	if err := writeFile(filepath.Join(m.dir, "manifest.json"), data); err != nil {
		return fmt.Errorf("mirror the identity: %w", err)
	}
	m.set(man)
	keep := map[string]bool{}
	for _, e := range man.Entries {
		keep[e.SHA256] = true
	}
	for _, k := range man.Kept {
		keep[k.SHA256] = true
	}
	return m.sweep(keep)
}

// Digest is that of the complete identity here, "" if there is none.
func (m *Mirror) Digest() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.man == nil {
		return ""
	}
	return m.man.Digest
}

// Len is the number of entries.
func (m *Mirror) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.man == nil {
		return 0
	}
	return len(m.man.Entries)
}

// Load reads the mirror and compares every file with its checksum. A mirror
// that is not whole counts as none, and the error says why; none at all is no
// error.
func (m *Mirror) Load() error {
	man, err := load(m.dir, m.spec.Roots)
	if errors.Is(err, os.ErrNotExist) {
		man, err = nil, nil
	}
	m.set(man)
	return err
}

func load(dir string, roots []string) (*Manifest, error) {
	f, err := os.Open(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return nil, fmt.Errorf("read the mirrored identity: %w", err)
	}
	defer f.Close()
	man, err := ParseManifest(f, roots)
	if err != nil {
		return nil, fmt.Errorf("read the mirrored identity: %w", err)
	}
	all := slices.Clone(man.Entries)
	for _, k := range man.Kept {
		all = append(all, k.Entry)
	}
	for i := range all {
		e := &all[i]
		if e.Kind != KindFile {
			continue
		}
		if sum, size, err := hashFile(blob(dir, e.SHA256)); err != nil || sum != e.SHA256 || size != e.Size {
			return nil, fmt.Errorf("the mirrored identity is damaged: %s (%v)", e.Path, err)
		}
	}
	return man, nil
}

func blob(dir, sum string) string { return filepath.Join(dir, "blobs", sum) }

// Update fetches the manifest (get with nil) and the files that are not here yet, and
// then replaces the manifest, if what came is whole. After an error the mirror is as
// before. What the master has not any more is kept for a while.
func (m *Mirror) Update(ctx context.Context, get func(context.Context, *Entry) (io.ReadCloser, error)) error {
	body, err := get(ctx, nil)
	if err != nil {
		return err
	}
	man, err := ParseManifest(body, m.spec.Roots)
	if err := errors.Join(err, body.Close()); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(m.dir, "blobs"), 0o700); err != nil {
		return fmt.Errorf("mirror the identity: %w", err)
	}
	if err := os.Chmod(m.dir, 0o700); err != nil {
		return fmt.Errorf("mirror the identity: %w", err)
	}
	for i := range man.Entries {
		if e := &man.Entries[i]; e.Kind == KindFile {
			if err := m.fetch(ctx, e, get); err != nil {
				return fmt.Errorf("mirror %s: %w", e.Path, err)
			}
		}
	}
	if err := whole(man, m.spec.Needed, m.read); err != nil {
		return fmt.Errorf("the identity on the master is not whole: %w", err)
	}
	m.mu.Lock()
	was := m.man
	m.mu.Unlock()
	man.keep(was, m.spec.MayMiss, m.now())
	return m.replace(man)
}

// fetch brings one file, if it is not here already.
func (m *Mirror) fetch(ctx context.Context, e *Entry, get func(context.Context, *Entry) (io.ReadCloser, error)) error {
	if sum, _, err := hashFile(blob(m.dir, e.SHA256)); err == nil && sum == e.SHA256 {
		return nil
	}
	body, err := get(ctx, e)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(body, e.Size+1))
	if err := errors.Join(err, body.Close()); err != nil {
		return err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != e.SHA256 {
		return errors.New("it changed while it was being copied")
	}
	return writeFile(blob(m.dir, e.SHA256), data)
}

// sweep removes files that are not part of the identity any more.
func (m *Mirror) sweep(keep map[string]bool) error {
	list, err := os.ReadDir(filepath.Join(m.dir, "blobs"))
	if err != nil {
		return fmt.Errorf("mirror the identity: %w", err)
	}
	for _, d := range list {
		if !keep[d.Name()] {
			if err := os.Remove(filepath.Join(m.dir, "blobs", d.Name())); err != nil {
				return fmt.Errorf("mirror the identity: %w", err)
			}
		}
	}
	return nil
}

// writeFile writes a secret by atomic rename, on disk when it returns; it
// writes nothing if the file says that already.
func writeFile(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}
