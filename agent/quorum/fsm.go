package quorum

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// maxSnapshot bounds a snapshot in bytes when it is read: the state at all its
// bounds, every byte escaped, has about 4 MB.
const maxSnapshot = 6 << 20

// fsm is the replicated state machine behind raft. raft calls Apply, Snapshot
// and Restore from one goroutine; everybody reads state.
type fsm struct {
	state   atomic.Pointer[State]
	changed func()

	once   sync.Once
	halted chan struct{} // closed by halt
	why    error         // valid after halted is closed
}

func newFSM(cluster string, changed func()) *fsm {
	f := &fsm{changed: changed, halted: make(chan struct{})}
	f.state.Store(&State{Cluster: cluster})
	return f
}

// halt stops the state machine for good: from here on the state of this node
// would not be that of the others. Run reports why.
func (f *fsm) halt(why error) error {
	f.once.Do(func() { f.why = why; close(f.halted) })
	return f.why
}

func (f *fsm) stopped() error {
	select {
	case <-f.halted:
		return f.why
	default:
		return nil
	}
}

// Apply takes one committed log entry. What it returns reaches the proposer: nil
// or a *Refused; or the reason of a halt.
func (f *fsm) Apply(entry *raft.Log) any {
	if err := f.stopped(); err != nil {
		return err
	}
	c, err := decode(entry.Data)
	if err != nil {
		return f.halt(fmt.Errorf("applying entry %d of the replicated log: %w", entry.Index, err))
	}
	next, err := f.state.Load().apply(c)
	if err != nil {
		return err
	}
	f.state.Store(&next)
	f.changed()
	return nil
}

// StoreConfiguration is called by raft when a change of the servers is committed.
func (f *fsm) StoreConfiguration(uint64, raft.Configuration) { f.changed() }

// snapshot is the stored form of the state.
type snapshot struct {
	V     int   `json:"v"`
	State State `json:"state"`
}

// Snapshot hands the present state to raft. A halted state machine has none: a
// snapshot would claim entries that were never applied.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.stopped(); err != nil {
		return nil, err
	}
	return &snapshot{V: commandVersion, State: *f.state.Load()}, nil
}

// Persist writes the snapshot into raft's sink.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode(s); err != nil {
		return errors.Join(fmt.Errorf("writing a snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

// Release has nothing to release: a State is immutable.
func (s *snapshot) Release() {}

// Restore replaces the state by a snapshot.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	s, err := readSnapshot(r)
	if err == nil {
		if have := f.state.Load().Cluster; s.Cluster != have {
			err = fmt.Errorf("snapshot is of the cluster %q, this node belongs to %q", s.Cluster, have)
		}
	}
	if err != nil {
		return f.halt(fmt.Errorf("restoring a snapshot: %w", err))
	}
	f.state.Store(&s)
	f.changed()
	return nil
}

func readSnapshot(r io.Reader) (State, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxSnapshot+1))
	if err != nil {
		return State{}, err
	}
	if len(raw) > maxSnapshot {
		return State{}, fmt.Errorf("it has more than %d bytes", maxSnapshot)
	}
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return State{}, err
	}
	if head.V > commandVersion {
		return State{}, fmt.Errorf("it has version %d, this agent knows version %d: %w", head.V, commandVersion, ErrNewer)
	}
	var s snapshot
	if err := strict(raw, &s); err != nil {
		return State{}, err
	}
	if s.V != commandVersion {
		return State{}, fmt.Errorf("it has version %d, this agent knows version %d", s.V, commandVersion)
	}
	return s.State, s.State.check()
}
