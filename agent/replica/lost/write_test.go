package lost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"relevo.dev/relevo/agent/replica/kine/kinetest"
)

// files lists a folder: path to content, with the modes checked.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want || !e.IsDir() && !info.Mode().IsRegular() {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if e.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		out[rel] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWrite(t *testing.T) {
	p := places(t)
	for _, d := range []string{p.Datastore, p.Copy} {
		if err := os.MkdirAll(filepath.Dir(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	secret := string(stored(t, "v1", "Secret", []byte{0, 1, 2}))
	w := kinetest.New(t, p.Datastore, false)
	w.Put("/registry/secrets/default/gone", secret)
	fork(t, w, p.Copy)
	common := w.Head()
	long := strings.Repeat("long", 100)
	w.Put("/registry/secrets/default/s", secret)
	w.Put("/registry/example.org/things/x", `{"kind":"Thing","n":12345678901234567890}`)
	w.Put("/registry/example.org/things/y", `{"kind":"Thing",`)
	w.Put("/registry/secrets/../../../../etc/passwd", "evil")
	w.Put("/registry/../../../etc/shadow", "evil")
	w.Put("/registry/secrets/a/..", "evil")
	w.Put("/registry/secrets/a/.", "evil")
	w.Put("/registry/secrets/a\x00b/\xff\x1b[2J", "evil")
	w.Put("/registry/secrets/x.9.raw/y", "evil")
	w.Put("/registry/secrets/"+long+"/"+long, "evil")
	w.Put("/etc/passwd", "evil")
	w.Delete("/registry/secrets/default/gone")
	promote(t, p.Copy, 2, 1)
	f := find(t, p)
	r, err := Diff(t.Context(), f, f.Kept[0], Options{})
	if err != nil {
		t.Fatal(err)
	}
	around := t.TempDir()
	dir := filepath.Join(around, "lost")
	if err := Write(t.Context(), &r, dir); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(around); err != nil || len(entries) != 1 {
		t.Fatalf("something left the folder: %v, %v", entries, err)
	}
	got := files(t, dir)
	name := func(folder string, n int64, ext string) string { return fmt.Sprintf("%s.%d.%s", folder, common+n, ext) }
	want := map[string]string{
		name("secrets/default/s", 1, "raw"):       secret,
		name("things.example.org/_/x", 2, "raw"):  `{"kind":"Thing","n":12345678901234567890}`,
		name("things.example.org/_/x", 2, "json"): "{\n  \"kind\": \"Thing\",\n  \"n\": 12345678901234567890\n}\n",
		name("things.example.org/_/y", 3, "raw"):  `{"kind":"Thing",`,
		name("secrets/a/%2E.", 6, "raw"):          "evil",
	}
	for path, text := range want {
		if got[path] != text {
			t.Errorf("%s: %q, want %q", path, got[path], text)
		}
	}
	evil := 0
	for path, text := range got {
		if text == "evil" {
			evil++
		}
		for _, c := range []byte(path) {
			if c < 0x20 || c > 0x7e {
				t.Errorf("%q is no plain name", path)
				break
			}
		}
	}
	if evil != 8 {
		t.Errorf("%d hostile objects were written, want 8: %v", evil, got)
	}
	var index struct {
		Term    uint64
		Objects []struct{ Key, Op, File string }
	}
	if err := json.Unmarshal([]byte(got[IndexFile]), &index); err != nil || index.Term != 2 || len(index.Objects) != 12 {
		t.Fatalf("%v: %s", err, got[IndexFile])
	}
	for _, o := range index.Objects {
		if _, ok := got[o.File]; ok == (o.Op == string(Delete)) {
			t.Errorf("%+v", o)
		}
	}
	if len(got) != len(index.Objects)-1+1+1 { // no file for the delete, the index, and one more for the JSON
		t.Errorf("%d files", len(got))
	}

	// Only into a folder of its own.
	if err := Write(t.Context(), &r, dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("wrote twice: %v", err)
	}
	open := filepath.Join(around, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), &r, open); err == nil || !strings.Contains(err.Error(), "others may look") {
		t.Errorf("wrote where others can read: %v", err)
	}
	if err := os.Chmod(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), &r, open); err != nil {
		t.Error(err)
	}
	if err := Write(t.Context(), &r, filepath.Join(around, "no", "such")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := os.Remove(p.Datastore); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), &r, filepath.Join(around, "late")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// FuzzFileName: one plain file name, whatever the object is called.
func FuzzFileName(f *testing.F) {
	for _, s := range []string{"", ".", "..", "a/b", "web-1", "\x00", strings.Repeat("%", 300), "ünïcode", "system:node"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name := fileName(s)
		if name == "" || name[0] == '.' || len(name) > maxFileName || strings.ContainsFunc(name, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_%", r)
		}) {
			t.Fatalf("%q became %q", s, name)
		}
	})
}
