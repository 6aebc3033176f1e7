package files

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Scanner lists the identity on the master. Contents are read again only when
// inode, size, or change time of a file say so.
type Scanner struct {
	spec  Spec
	every time.Duration

	mu     sync.Mutex
	at     time.Time
	man    *Manifest
	err    error
	sums   map[string]summed
	users  map[int]string
	groups map[int]string

	watched bool // inotify tells of changes
	stale   bool // and has told of one since the listing began

	certs    []Cert // of the identity with the digest certsOf
	certsOf  string
	notWhole error // of that with the digest wholeOf
	wholeOf  string
}

type summed struct {
	ino          uint64
	size         int64
	mtime, ctime int64
	sha          string
}

// NewScanner lists what is at and below the roots. A listing may be as old as every; a
// new one costs one lstat a file.
func NewScanner(spec Spec, every time.Duration) *Scanner {
	return &Scanner{spec: spec, every: every, sums: map[string]summed{}, users: map[int]string{}, groups: map[int]string{}}
}

// Digest is the digest of the whole identity at this moment; an error if a
// root is missing or something cannot be read.
func (s *Scanner) Digest() (string, error) {
	m, err := s.Manifest()
	if err != nil {
		return "", err
	}
	return m.Digest, nil
}

// Manifest lists the identity; see NewScanner for how old.
func (s *Scanner) Manifest() (*Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due() {
		s.stale = false // what changes from here on is another change
		s.scan()
	}
	return s.man, s.err
}

func (s *Scanner) scan() {
	m := &Manifest{Version: manifestVersion, Entries: []Entry{}}
	sums := map[string]summed{}
	var total int64
	s.man, s.err = nil, nil
	for _, root := range s.spec.Roots {
		if slices.Contains(s.spec.MayMiss, root) {
			if _, err := os.Lstat(root); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		err := filepath.WalkDir(filepath.Clean(root), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			e, ok, err := s.entry(path, sums)
			if err != nil || !ok {
				return err
			}
			if total += e.Size; total > MaxTotal || len(m.Entries) == MaxEntries {
				return fmt.Errorf("%s: the identity is larger than %d bytes or %d files; name less", path, int64(MaxTotal), MaxEntries)
			}
			m.Entries = append(m.Entries, e)
			return nil
		})
		if err != nil {
			s.err = fmt.Errorf("list the identity: %w", err)
			break
		}
	}
	if s.err == nil {
		m.Entries = unique(m.Entries)
		m.Digest, s.err = digest(m.Entries)
	}
	if s.err == nil {
		s.man = m
	}
	s.sums, s.at = sums, time.Now()
}

// unique drops what two overlapping roots both name.
func unique(list []Entry) []Entry {
	seen := map[string]bool{}
	out := list[:0]
	for _, e := range list {
		if !seen[e.Path] {
			seen[e.Path] = true
			out = append(out, e)
		}
	}
	return out
}

// entry describes one path; ok is false for what is not copied (sockets,
// pipes, devices).
func (s *Scanner) entry(path string, sums map[string]summed) (e Entry, ok bool, err error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return e, false, err
	}
	st, isStat := fi.Sys().(*syscall.Stat_t)
	if !isStat {
		return e, false, fmt.Errorf("%s: no owner", path)
	}
	e = Entry{Path: path, Mode: uint32(fi.Mode().Perm()), UID: int(st.Uid), GID: int(st.Gid), User: s.user(int(st.Uid)), Group: s.group(int(st.Gid))}
	switch fi.Mode().Type() {
	case fs.ModeDir:
		e.Kind = KindDir
	case fs.ModeSymlink:
		e.Kind, e.Mode = KindLink, 0o777
		if e.Target, err = os.Readlink(path); err != nil {
			return e, false, err
		}
	case 0:
		e.Kind, e.Size = KindFile, fi.Size()
		if e.Size > MaxFile {
			return e, false, fmt.Errorf("%s: %d bytes, more than the %d of a file of the identity", path, e.Size, int64(MaxFile))
		}
		now := summed{ino: st.Ino, size: fi.Size(), mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano()}
		if old := s.sums[path]; old.ino == now.ino && old.size == now.size && old.mtime == now.mtime && old.ctime == now.ctime {
			now.sha = old.sha
		} else if now.sha, now.size, err = hashFile(path); err != nil {
			return e, false, err
		}
		e.SHA256, e.Size = now.sha, now.size
		sums[path] = now
	default:
		return e, false, nil
	}
	return e, true, e.check(s.spec.Roots)
}

// hashFile reads the file as it is now; its size too, it may be growing.
func hashFile(path string) (sum string, size int64, err error) {
	f, err := open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, io.LimitReader(f, MaxFile))
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// open does not follow a link that was put in the file's place, and does not
// hang on a pipe.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

func (s *Scanner) user(id int) string {
	name, ok := s.users[id]
	if !ok {
		if u, err := user.LookupId(strconv.Itoa(id)); err == nil {
			name = u.Username
		}
		s.users[id] = name
	}
	return name
}

func (s *Scanner) group(id int) string {
	name, ok := s.groups[id]
	if !ok {
		if g, err := user.LookupGroupId(strconv.Itoa(id)); err == nil {
			name = g.Name
		}
		s.groups[id] = name
	}
	return name
}

// Certificates are those of the identity at this moment, with the manifest that they are
// from; they are read again only when something changed.
func (s *Scanner) Certificates() (*Manifest, []Cert, error) {
	m, err := s.Manifest()
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.certsOf != m.Digest {
		s.certs, s.certsOf = certificates(m, readEntry), m.Digest
	}
	return m, s.certs, nil
}

// Whole says what keeps the identity of a manifest from being one.
func (s *Scanner) Whole(m *Manifest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wholeOf != m.Digest {
		s.notWhole, s.wholeOf = whole(m, s.spec.Needed, readEntry), m.Digest
	}
	return s.notWhole
}

func readEntry(e *Entry) ([]byte, error) {
	f, err := open(e.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPEM))
}

// ServeManifest answers with the manifest as JSON.
func (s *Scanner) ServeManifest(w http.ResponseWriter, _ *http.Request) {
	m, err := s.Manifest()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(m) // who hangs up asks again
}

// ServeFile answers with the file named by path=, if it is in the manifest
// with the checksum sha256=; nothing else on this host can be had.
func (s *Scanner) ServeFile(w http.ResponseWriter, r *http.Request) {
	path, sum := r.URL.Query().Get("path"), r.URL.Query().Get("sha256")
	m, err := s.Manifest()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	for _, e := range m.Entries {
		if e.Path == path && e.Kind == KindFile && e.SHA256 == sum {
			f, err := open(path)
			if errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			defer f.Close()
			w.Header().Set("Content-Type", "application/octet-stream")
			_, _ = io.Copy(w, io.LimitReader(f, MaxFile)) // the standby compares the checksum
			return
		}
	}
	http.Error(w, "no such file in the identity at the moment", http.StatusNotFound)
}
