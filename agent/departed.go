package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/durable"
	"relevo.dev/relevo/agent/peer"
)

// Who leaves says goodbye once; the person, or `relevo join --leave-old`, may be cut off after
// that and ask again, when the others have replaced this host and do not answer it any more.
// So the agent notes that it has left. An agent that starts makes the host a member again.

// departedFile has the key of this host's certificate, as hex of peer.KeySum: on another key
// it is a member by another joining.
const departedFile = "departed"

// QuorumDir is the folder in the data directory with what was agreed on, and with the vote, which
// is bound to the name of the host.
const QuorumDir = "raft"

// Departed says how a host went from the cluster that it was in, as its agent noted in dataDir:
// it said goodbye and was not started since, or it was removed, in a sentence with by whom.
func Departed(dataDir string, was peer.Membership) (left bool, removed string) {
	if len(was.Key) == 0 {
		return false, "" // nothing says which of its memberships it was
	}
	if b, err := readBounded(filepath.Join(dataDir, removedFile), maxRemoval); err == nil {
		if x, err := parseRemoval(b, was.Node, was.Key); err == nil {
			removed = x.text(was.Cluster)
		}
	}
	key := departedText(was.Key)
	b, err := readBounded(filepath.Join(dataDir, departedFile), int64(len(key)))
	return err == nil && string(b) == key, removed
}

func departedText(key []byte) string { return hex.EncodeToString(key) + "\n" }

// farewell is the leaving of this host.
type farewell struct {
	mu   sync.Mutex // held while it goes on
	done *api.Done  // nil = it has not left
}

// leaveOnce takes this host out of the cluster. Who asks again waits for the first, and has
// its answer.
func (a *agent) leaveOnce(ctx context.Context, o api.Order) (api.Done, error) {
	a.trust.farewell.mu.Lock()
	defer a.trust.farewell.mu.Unlock()
	if a.trust.farewell.done != nil {
		return *a.trust.farewell.done, nil
	}
	d, told, err := a.leave(ctx, o)
	if err != nil {
		return d, err
	}
	a.trust.farewell.done = &d
	if !told {
		return d, nil
	}
	if err := durable.Replace(a.departedPath(), []byte(departedText(a.id.KeySum())), 0o600); err != nil {
		a.log.Warn("that this host has left is not kept", "err", err)
	}
	return d, nil
}

func (a *agent) departedPath() string { return filepath.Join(a.cfg.DataDir, departedFile) }

// comesBack forgets that this host has left.
func (a *agent) comesBack() error {
	if err := os.Remove(a.departedPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget that this host had left: %w", err)
	}
	return nil
}
