package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"relevo.dev/relevo/agent/durable"
	"relevo.dev/relevo/agent/lease"
)

// What this host knew last of the mastership, on disk: an agent that starts without
// a quorum must know that there was a master, or it might take what runs on its
// host for the first one. Written when the term changes, so a few times a year.
type known struct {
	Term     uint64 `json:"term"`
	Holder   string `json:"holder"`
	Released bool   `json:"released,omitempty"`
}

func (a *agent) knownPath() string { return filepath.Join(a.cfg.DataDir, "term.json") }

func readKnown(path string) (lease.Fact, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return lease.Fact{}, nil
	}
	if err != nil {
		return lease.Fact{}, fmt.Errorf("read the newest known term: %w", err)
	}
	var k known
	if err := json.Unmarshal(b, &k); err != nil || k.Term == 0 {
		return lease.Fact{}, fmt.Errorf("%s is damaged (%w): move it away if `relevo status` on another host shows that this one is not the master", path, err)
	}
	return lease.Fact{Term: k.Term, Holder: k.Holder, Released: k.Released}, nil
}

func writeKnown(path string, f lease.Fact) error {
	b, err := json.Marshal(known{f.Term, f.Holder, f.Released})
	if err != nil {
		return err
	}
	return durable.Replace(path, b, 0o600)
}
