package files

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// world is a master's identity, served, and a standby's mirror of it.
type world struct {
	t      *testing.T
	root   string
	scan   *Scanner
	mirror *Mirror
	calls  int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, root: filepath.Join(dir, "etc", "kubernetes")}
	w.put("pki/ca.crt", "cert", 0o644)
	w.put("pki/ca.key", "secret", 0o600)
	w.put("tokens.csv", "token", 0o640)
	if err := os.Symlink("ca.crt", filepath.Join(w.root, "pki", "current.crt")); err != nil {
		t.Fatal(err)
	}
	w.scan = NewScanner(Spec{Roots: []string{w.root}}, 0)
	w.mirror = NewMirror(filepath.Join(dir, "replica", "identity"), Spec{Roots: []string{w.root}})
	return w
}

func (w *world) put(name, text string, mode os.FileMode) {
	w.t.Helper()
	path := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) get(_ context.Context, e *Entry) (io.ReadCloser, error) {
	w.calls++
	rec := httptest.NewRecorder()
	if e == nil {
		w.scan.ServeManifest(rec, nil)
	} else {
		w.scan.ServeFile(rec, httptest.NewRequest(http.MethodGet, "/?"+url.Values{"path": {e.Path}, "sha256": {e.SHA256}}.Encode(), nil))
	}
	if rec.Code != http.StatusOK {
		return nil, errors.New(rec.Body.String())
	}
	return io.NopCloser(rec.Body), nil
}

func (w *world) update() {
	w.t.Helper()
	if err := w.mirror.Update(w.t.Context(), w.get); err != nil {
		w.t.Fatal(err)
	}
}

func TestMirrorAndInstall(t *testing.T) {
	w := newWorld(t)
	w.update()
	want, err := w.scan.Digest()
	if err != nil || w.mirror.Digest() != want {
		t.Fatalf("%q, %q, %v", want, w.mirror.Digest(), err)
	}
	filepath.Walk(w.mirror.dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", p, fi.Mode(), err)
		}
		return nil
	})
	// One file changes: only it is fetched, and nothing of the old one stays.
	w.calls = 0
	w.put("pki/ca.key", "secret 2", 0o600)
	w.update()
	if w.calls != 2 {
		t.Fatalf("%d requests, want the manifest and one file", w.calls)
	}
	if l, err := os.ReadDir(filepath.Join(w.mirror.dir, "blobs")); err != nil || len(l) != 3 {
		t.Fatalf("%v, %v", l, err)
	}
	// A new start knows it.
	again := NewMirror(w.mirror.dir, w.mirror.spec)
	if err := again.Load(); err != nil || again.Digest() != w.mirror.Digest() {
		t.Fatal(err)
	}

	// This is now another host, with things of its own in the same places.
	digest, _ := w.scan.Digest()
	if err := os.RemoveAll(w.root); err != nil {
		t.Fatal(err)
	}
	w.put("pki/ca.key", "my own", 0o644)
	w.put("pki/extra", "mine", 0o644)
	for i, wrote := range []int{4, 0} {
		done, err := Install(t.Context(), w.mirror.dir, []string{w.root})
		if err != nil || done.Written != wrote || done.Written+done.Same != 4 {
			t.Fatalf("%d: %+v, %v", i, done, err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(w.mirror.dir+"-aside", w.root, "pki/ca.key")); err != nil || string(data) != "my own" {
		t.Fatalf("what was replaced is not kept: %q, %v", data, err)
	}
	if err := os.Remove(filepath.Join(w.root, "pki/extra")); err != nil {
		t.Fatal("the standby's own file is gone: ", err)
	}
	// Owner, mode, content, links: the same digest.
	if got, err := NewScanner(Spec{Roots: []string{w.root}}, 0).Digest(); err != nil || got != digest {
		t.Fatalf("%q, want %q, %v", got, digest, err)
	}
	// Changed again: the first version replaced stays the one that is kept.
	w.put("pki/ca.key", "damaged", 0o644)
	if done, err := Install(t.Context(), w.mirror.dir, []string{w.root}); err != nil || done.Written != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	if data, _ := os.ReadFile(filepath.Join(w.mirror.dir+"-aside", w.root, "pki/ca.key")); string(data) != "my own" {
		t.Fatalf("%q", data)
	}
}

func TestMirrorKeepsTheGoodOne(t *testing.T) {
	w := newWorld(t)
	w.update()
	good := w.mirror.Digest()
	w.put("pki/new.key", "x", 0o600)
	boom := errors.New("cut")
	err := w.mirror.Update(t.Context(), func(ctx context.Context, e *Entry) (io.ReadCloser, error) {
		body, err := w.get(ctx, e)
		if e != nil {
			body = io.NopCloser(io.MultiReader(io.LimitReader(body, 0), iotestErr{boom}))
		}
		return body, err
	})
	if !errors.Is(err, boom) || w.mirror.Digest() != good {
		t.Fatalf("%v", err)
	}
	if err := w.mirror.Load(); err != nil || w.mirror.Digest() != good {
		t.Fatal(err)
	}
	// Content that is not what the manifest says.
	err = w.mirror.Update(t.Context(), func(ctx context.Context, e *Entry) (io.ReadCloser, error) {
		if e != nil {
			return io.NopCloser(strings.NewReader("y")), nil
		}
		return w.get(ctx, e)
	})
	if err == nil || !strings.Contains(err.Error(), "changed while") {
		t.Fatal(err)
	}
	// A damaged mirror is none, and is not installed.
	l, _ := os.ReadDir(filepath.Join(w.mirror.dir, "blobs"))
	if err := os.WriteFile(filepath.Join(w.mirror.dir, "blobs", l[0].Name()), []byte("rot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Install(t.Context(), w.mirror.dir, []string{w.root}); err == nil {
		t.Fatal("installed a damaged identity")
	}
	if err := w.mirror.Load(); err == nil || w.mirror.Digest() != "" {
		t.Fatal("a damaged mirror counts as complete")
	}
	w.update() // heals
	if err := w.mirror.Load(); err != nil || w.mirror.Digest() == "" {
		t.Fatal(err)
	}
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

func TestServesOnlyTheIdentity(t *testing.T) {
	w := newWorld(t)
	m, err := w.scan.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	sum := m.Entries[len(m.Entries)-1].SHA256
	for _, path := range []string{"/etc/passwd", w.root + "/../kubernetes/tokens.csv", w.root, "", w.root + "/pki/current.crt"} {
		if _, err := w.get(t.Context(), &Entry{Path: path, SHA256: sum}); err == nil {
			t.Errorf("%q was served", path)
		}
	}
}

func TestScanRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		do         func(w *world) error
	}{
		{"link that leads out", "not part of the identity", func(w *world) error { return os.Symlink("/etc/passwd", w.root+"/x") }},
		{"link that climbs out", "not part of the identity", func(w *world) error { return os.Symlink("../../x", w.root+"/x") }},
		{"missing root", "no such file", func(w *world) error { return os.RemoveAll(w.root) }},
		{"too large", "more than", func(w *world) error {
			return errors.Join(os.WriteFile(w.root+"/x", nil, 0o600), os.Truncate(w.root+"/x", MaxFile+1))
		}},
	} {
		w := newWorld(t)
		if err := tt.do(w); err != nil {
			t.Fatal(err)
		}
		if _, err := w.scan.Digest(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func manifest(t testing.TB, entries ...Entry) []byte {
	d, err := digest(entries)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(Manifest{Version: manifestVersion, Digest: d, Entries: entries})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestManifestRefuses(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	ok := Entry{Path: "/etc/k/a", Kind: KindFile, Mode: 0o600, Size: 3, SHA256: sum}
	with := func(f func(*Entry)) []byte {
		e := ok
		f(&e)
		return manifest(t, e)
	}
	if _, err := ParseManifest(bytes.NewReader(manifest(t, ok)), []string{"/etc/k"}); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"elsewhere":          with(func(e *Entry) { e.Path = "/etc/shadow" }),
		"prefix of the name": with(func(e *Entry) { e.Path = "/etc/kx" }),
		"dots":               with(func(e *Entry) { e.Path = "/etc/k/../shadow" }),
		"relative":           with(func(e *Entry) { e.Path = "etc/k/a" }),
		"newline":            with(func(e *Entry) { e.Path = "/etc/k/a\nb" }),
		"setuid":             with(func(e *Entry) { e.Mode = 0o4755 }),
		"owner":              with(func(e *Entry) { e.UID = -1 }),
		"size":               with(func(e *Entry) { e.Size = MaxFile + 1 }),
		"checksum is a path": with(func(e *Entry) { e.SHA256 = "../../../../etc/shadow" }),
		"upper case":         with(func(e *Entry) { e.SHA256 = strings.ToUpper(sum) }),
		"kind":               with(func(e *Entry) { e.Kind = "device" }),
		"link out":           manifest(t, Entry{Path: "/etc/k/l", Kind: KindLink, Target: "../shadow"}),
		"twice":              manifest(t, ok, ok),
		"below a link":       manifest(t, Entry{Path: "/etc/k/l", Kind: KindLink, Target: "a"}, Entry{Path: "/etc/k/l/f", Kind: KindFile, SHA256: sum}),
		"digest":             bytes.Replace(manifest(t, ok), []byte(`"size":3`), []byte(`"size":4`), 1),
		"version":            []byte(`{"version":2}`),
		"no json":            []byte(`x`),
	} {
		if _, err := ParseManifest(bytes.NewReader(data), []string{"/etc/k"}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestInstallStaysInside: a link that somebody put on the way leads nowhere.
func TestInstallStaysInside(t *testing.T) {
	w := newWorld(t)
	w.update()
	outside := t.TempDir()
	if err := os.RemoveAll(w.root); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(w.root, 0o755), os.Symlink(outside, filepath.Join(w.root, "pki"))); err != nil {
		t.Fatal(err)
	}
	if _, err := Install(t.Context(), w.mirror.dir, []string{w.root}); err == nil {
		t.Fatal("installed through a link")
	}
	if l, err := os.ReadDir(outside); err != nil || len(l) != 0 {
		t.Fatalf("written outside: %v, %v", l, err)
	}
}

// FuzzManifest: what is accepted lies below the roots, is complete, and leads nowhere else.
// The digest, which a fuzzer does not guess, is put right.
func FuzzManifest(f *testing.F) {
	sum := strings.Repeat("0", 64)
	f.Add(manifest(f, Entry{Path: "/etc/k", Kind: KindDir, Mode: 0o700}, Entry{Path: "/etc/k/a", Kind: KindFile, Size: 1, SHA256: sum},
		Entry{Path: "/etc/k/l", Kind: KindLink, Target: "a"}))
	for _, s := range []string{
		`{"version":1,"entries":[{"path":"/"}]}`,
		`{"version":1,"entries":[{"path":"/etc/k/l","kind":"link","target":"/etc/k/../passwd"},{"path":"/etc/k/m","kind":"link","target":"../../x"}]}`,
		`{"version":1,"entries":[{"path":"/etc/k/l","kind":"link","target":"."},{"path":"/etc/k/l/x","kind":"file","sha256":"` + sum + `"}]}`,
		`{"version":1,"entries":[{"path":"/etc/k/a","kind":"dir"},{"path":"/etc/k/a","kind":"dir"}]}`,
		`{"version":1,"entries":[{"path":"/etc/k/a","kind":"file","mode":2541,"uid":-1,"size":8388609,"sha256":"` + sum + `"}]}`,
		`{"version":1,"entries":[{"path":"/etc/k/a","kind":"file","size":5,"sha256":"` + sum + `"}],"kept":[{"path":"/etc/k/b","kind":"file","sha256":"` + sum + `"},{"path":"/x","kind":"dir"}]}`,
	} {
		f.Add([]byte(s))
	}
	roots := []string{"/etc/k"}
	f.Fuzz(func(t *testing.T, b []byte) {
		ParseManifest(bytes.NewReader(b), roots)
		var m Manifest
		if json.Unmarshal(b, &m) != nil {
			return
		}
		m.Digest, _ = digest(m.Entries)
		b, err := json.Marshal(m)
		if err != nil {
			return
		}
		got, err := ParseManifest(bytes.NewReader(b), roots)
		if err != nil {
			return
		}
		kinds, total := map[string]string{}, int64(0)
		for _, e := range got.Entries {
			if rootOf(e.Path, roots) == "" || filepath.Clean(e.Path) != e.Path || kinds[e.Path] != "" || e.Mode > 0o777 || e.UID < 0 || e.Size < 0 || strings.ContainsAny(e.Path, "\x00\n") {
				t.Fatalf("accepted %+v", e)
			}
			if to := e.Target; e.Kind == KindLink {
				if !filepath.IsAbs(to) {
					to = filepath.Dir(e.Path) + "/" + to
				}
				if to = filepath.Clean(to); to != "/etc/k" && !strings.HasPrefix(to, "/etc/k/") {
					t.Fatalf("accepted a link out: %+v", e)
				}
			}
			kinds[e.Path] = e.Kind
			total += e.Size
		}
		for p := range kinds {
			for d := filepath.Dir(p); d != "/"; d = filepath.Dir(d) {
				if k := kinds[d]; k != "" && k != KindDir {
					t.Fatalf("%s is below %s, a %s", p, d, k)
				}
			}
		}
		for _, k := range got.Kept {
			if rootOf(k.Path, roots) == "" {
				t.Fatalf("kept %+v", k)
			}
		}
		if total > MaxTotal || len(got.Entries) > MaxEntries {
			t.Fatalf("%d bytes in %d files", total, len(got.Entries))
		}
	})
}
