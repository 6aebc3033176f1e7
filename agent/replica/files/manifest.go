// Package files mirrors a control plane's identity: certificates, keys, tokens,
// manifests. A Scanner on the master lists and serves them, a Mirror on the
// standby keeps them by content, and Install puts them in place on promotion.
// They are secrets: files below a mirror are 0600 in folders of 0700.
package files

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Bounds of an identity. A control plane's has some thirty files of a few KiB.
const (
	MaxEntries  = 4096
	MaxFile     = 8 << 20  // bytes of one file
	MaxTotal    = 64 << 20 // bytes of all
	maxManifest = 4 << 20
)

// Kinds of entries.
const (
	KindFile = "file"
	KindDir  = "dir"
	KindLink = "link"
)

// Entry is one file, folder or symbolic link.
type Entry struct {
	Path   string `json:"path"` // absolute, clean
	Kind   string `json:"kind"`
	Mode   uint32 `json:"mode"` // permission bits, with setuid, setgid, sticky left out
	User   string `json:"user"` // by name if there is one: ids differ between hosts
	Group  string `json:"group"`
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Size   int64  `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"` // of a file, hex
	Target string `json:"target,omitempty"` // of a link
}

// Manifest is the whole identity, folders before what is in them.
type Manifest struct {
	Version int     `json:"version"`
	Digest  string  `json:"digest"` // over all entries
	Entries []Entry `json:"entries"`
	// Kept is what a mirror has beyond that; the master sends none.
	Kept []Kept `json:"kept,omitempty"`
}

const manifestVersion = 1

// digest is the SHA-256, in hex, over the entries as JSON.
func digest(entries []Entry) (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(entries); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ParseManifest reads a manifest and checks everything in it: it comes from
// the network and will be written to disk by root. Every path must lie at or
// below one of the roots.
func ParseManifest(r io.Reader, roots []string) (*Manifest, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read the identity's manifest: %w", err)
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("the identity's manifest is larger than %d bytes", maxManifest)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("read the identity's manifest: %w", err)
	}
	if m.Version != manifestVersion {
		return nil, fmt.Errorf("the identity's manifest has version %d, this agent knows %d", m.Version, manifestVersion)
	}
	if len(m.Entries) > MaxEntries {
		return nil, fmt.Errorf("the identity has %d files, more than %d", len(m.Entries), MaxEntries)
	}
	for i := range m.Kept {
		if err := m.Kept[i].check(roots); err != nil {
			return nil, err
		}
	}
	if len(m.Kept) > MaxEntries {
		return nil, fmt.Errorf("the identity kept %d files, more than %d", len(m.Kept), MaxEntries)
	}
	kinds, total := map[string]string{}, int64(0)
	for i := range m.Entries {
		e := &m.Entries[i]
		if err := e.check(roots); err != nil {
			return nil, err
		}
		if kinds[e.Path] != "" {
			return nil, fmt.Errorf("the identity names %q twice", e.Path)
		}
		kinds[e.Path] = e.Kind
		if total += e.Size; total > MaxTotal {
			return nil, fmt.Errorf("the identity is larger than %d bytes", int64(MaxTotal))
		}
	}
	for _, e := range m.Entries { // nothing may be written through a link
		for dir := filepath.Dir(e.Path); dir != "/"; dir = filepath.Dir(dir) {
			if k := kinds[dir]; k != "" && k != KindDir {
				return nil, fmt.Errorf("the identity names %q below %q, which is no folder", e.Path, dir)
			}
		}
	}
	if d, err := digest(m.Entries); err != nil || d != m.Digest {
		return nil, errors.Join(errors.New("the identity's manifest does not fit its digest"), err)
	}
	return &m, nil
}

func (e *Entry) check(roots []string) error {
	bad := func(why string) error { return fmt.Errorf("identity entry %q: %s", e.Path, why) }
	if strings.ContainsAny(e.Path+e.Target, "\x00\n") || len(e.Path) > 4096 || len(e.Target) > 4096 {
		return bad("malformed path")
	}
	if !filepath.IsAbs(e.Path) || filepath.Clean(e.Path) != e.Path {
		return bad("the path is not absolute and clean")
	}
	if rootOf(e.Path, roots) == "" {
		return bad("it is not below what this host's configuration names as identity: " + strings.Join(roots, ", "))
	}
	if e.Mode&^0o777 != 0 {
		return bad("odd mode")
	}
	if e.UID < 0 || e.GID < 0 || len(e.User) > 64 || len(e.Group) > 64 {
		return bad("odd owner")
	}
	switch e.Kind {
	case KindDir:
		if e.Size != 0 || e.SHA256 != "" || e.Target != "" {
			return bad("a folder with content")
		}
	case KindFile:
		if e.Size < 0 || e.Size > MaxFile {
			return bad("odd size")
		}
		if sum, err := hex.DecodeString(e.SHA256); err != nil || len(sum) != sha256.Size || strings.ToLower(e.SHA256) != e.SHA256 || e.Target != "" {
			return bad("malformed checksum")
		}
	case KindLink:
		if e.Size != 0 || e.SHA256 != "" || e.Target == "" {
			return bad("malformed link")
		}
		if to := linkTarget(e.Path, e.Target); rootOf(to, roots) == "" {
			return bad(fmt.Sprintf("it is a link to %q, which is not part of the identity; name that as well", to))
		}
	default:
		return bad("unknown kind " + e.Kind)
	}
	return nil
}

// linkTarget is where a link points, by its text alone.
func linkTarget(path, target string) string {
	if filepath.IsAbs(target) {
		return filepath.Clean(target)
	}
	return filepath.Join(filepath.Dir(path), target)
}

// rootOf returns the root at or below which the path lies, or "".
func rootOf(path string, roots []string) string {
	for _, r := range roots {
		r = filepath.Clean(r)
		if filepath.IsAbs(r) && r != "/" && (path == r || strings.HasPrefix(path, r+"/")) {
			return r
		}
	}
	return ""
}

// syncDir makes renames in a folder durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
