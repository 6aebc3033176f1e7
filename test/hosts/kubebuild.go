package hosts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Binaries are the paths of the programs of the tests' control plane.
type Binaries struct{ Kine, APIServer string }

// BuildKube builds kine (test/kine) and kube-apiserver (test/kube) into .cache/ of
// the repository and returns where they are. Cold it takes ten minutes on two cores;
// as long as go.mod, go.sum, the main file and the Go version stay, nothing is
// built again. It writes what it does, and how long it took, to out.
func BuildKube(ctx context.Context, out io.Writer) (Binaries, error) {
	root, err := repoRoot()
	if err != nil {
		return Binaries{}, err
	}
	if err := EnsureCompiler(ctx, out); err != nil {
		return Binaries{}, err
	}
	version, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("ask go for its version: %w", err)
	}
	cache := filepath.Join(root, ".cache")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Binaries{}, fmt.Errorf("make the folder for the Kubernetes binaries: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(cache, "kube.lock"))
	if err != nil {
		return Binaries{}, err
	}
	defer unlock()
	var b Binaries
	// Both are static, so that they run on the hosts whatever C library this machine
	// has. kine needs cgo for its SQLite, the one that k3s has.
	for _, p := range []struct {
		to               *string
		module, name, cg string
		args             []string
	}{
		{&b.Kine, "test/kine", "kine", "1", []string{"-tags=sqlite_omit_load_extension,netgo,osusergo",
			`-ldflags=-s -w -linkmode external -extldflags "-static"`}},
		{&b.APIServer, "test/kube", "kube-apiserver", "0", []string{"-ldflags=-s -w"}},
	} {
		dir := filepath.Join(root, p.module)
		h := sha256.New()
		fmt.Fprintf(h, "%s\n%s\n%s\n", version, p.cg, p.args)
		for _, f := range []string{"go.mod", "go.sum", "main.go"} {
			text, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				return Binaries{}, fmt.Errorf("build %s: %w", p.name, err)
			}
			h.Write(text)
		}
		*p.to = filepath.Join(cache, p.name+"-"+hex.EncodeToString(h.Sum(nil)[:6]), p.name)
		if _, err := os.Stat(*p.to); err == nil {
			continue
		}
		if err := build(ctx, out, dir, *p.to, p.cg, p.args); err != nil {
			return Binaries{}, err
		}
	}
	return b, nil
}

// kubeLayer is a folder with the programs where hosts have them, in the cache of base images.
func kubeLayer(ctx context.Context, out io.Writer, cache string) (string, error) {
	bin, err := BuildKube(ctx, out)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(filepath.Base(filepath.Dir(bin.Kine)) + filepath.Base(filepath.Dir(bin.APIServer))))
	layer := filepath.Join(cache, "kube-"+hex.EncodeToString(sum[:6]))
	unlock, err := lock(ctx, filepath.Join(cache, "base.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(layer); err == nil {
		return layer, nil
	}
	const copy = `set -e; rm -rf "$1.tmp"; mkdir -p "$1.tmp/usr/local/bin"; cp "$2" "$3" "$1.tmp/usr/local/bin/"; chmod 755 "$1.tmp"/usr/local/bin/*; mv "$1.tmp" "$1"`
	if text, err := exec.CommandContext(ctx, "sh", "-c", copy, "sh", layer, bin.Kine, bin.APIServer).CombinedOutput(); err != nil {
		return "", fmt.Errorf("put the programs of the control plane into %s: %w: %s", layer, err, text)
	}
	return layer, nil
}

func build(ctx context.Context, out io.Writer, dir, to, cgo string, args []string) error {
	name := filepath.Base(to)
	fmt.Fprintf(out, "building %s from %s (minutes, once)\n", name, dir)
	start := time.Now()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("build %s: %w", name, err)
	}
	tmp := filepath.Join(filepath.Dir(to), name+".tmp")
	c := exec.CommandContext(ctx, "go", append(append([]string{"build", "-trimpath"}, args...), "-o", tmp, ".")...)
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOWORK=off", "GOOS=", "GOARCH=")
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s in %s: %w\n%s", name, dir, err, lastLines(string(text), 20))
	}
	if err := os.Rename(tmp, to); err != nil {
		return fmt.Errorf("build %s: %w", name, err)
	}
	fmt.Fprintf(out, "built %s after %.0f s\n", name, time.Since(start).Seconds())
	return nil
}

// repoRoot finds the folder with the go.mod of relevo, from here upwards.
func repoRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module relevo.dev/relevo\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find the source of relevo: no go.mod of module relevo.dev/relevo here or above; run it inside the repository")
		}
	}
}
