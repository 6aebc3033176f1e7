//go:build e2e || bench

package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

var debs struct {
	sync.Mutex
	built map[string]string
}

// debFile builds the package for this machine in some version, once.
func debFile(t *testing.T, version string) string {
	t.Helper()
	debs.Lock()
	defer debs.Unlock()
	if f := debs.built[version]; f != "" {
		return f
	}
	arch := runtime.GOARCH
	dist, err := filepath.Abs("../../.cache/deb-" + version)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "make", "-C", "../..", "deb", "VERSION="+version, "DIST="+dist,
		fmt.Sprintf("DEB_ARCHES=%s:%s:", arch, arch)).CombinedOutput()
	if err != nil {
		t.Fatalf("make deb: %v\n%s", err, out)
	}
	f := filepath.Join(dist, fmt.Sprintf("relevo_%s_%s.deb", version, arch))
	if debs.built == nil {
		debs.built = map[string]string{}
	}
	debs.built[version] = f
	return f
}

// installDeb installs the package as a person would.
func (c *cluster) installDeb(ctx context.Context, h *node, file string) error {
	const at = "/root/relevo.deb"
	if err := h.CopyIn(ctx, file, at, 0o644); err != nil {
		return err
	}
	_, err := h.Run(ctx, "apt-get", "install", "-y", "-q", at)
	return err
}
