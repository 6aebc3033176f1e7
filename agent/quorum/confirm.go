package quorum

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Confirm proves that nobody else can have become the arbiter before Confirm was
// called. The arbiter acknowledges a renewal of the lease only after that (S2).
//
// It asks every other voter, in parallel, for its raft term (ask: a call over
// the network that returns the other's RaftTerm; the request must not be sent
// before ask is called). It returns nil as soon as a majority of the voters, this
// node counted if it is one, has answered with exactly the raft term in which
// this node leads, and it still leads in it.
//
// Why that is enough: another arbiter needs the votes of a majority in a higher
// raft term. Two majorities share a voter (raft changes one server at a time,
// so this holds across a change). That voter answered with our term; raft stores
// a higher term before it votes in it, and terms only grow (see
// transport.SetHeartbeatHandler), so it voted after its answer, which is after
// Confirm was called, which is after the holder sent the renewal. The holder
// counts its lease from that sending. The new arbiter waits a whole TTL from its
// own election (S3). So the holder's lease is over before the next term begins.
//
// Why not raft.VerifyLeader (read in raft 1.8.0, shown in confirm_test.go): it
// takes the next answer to *any* AppendEntries request for a confirmation, even
// to one that was sent before the call: the answer may have lain in a socket
// buffer while this process, or this network, stood still. And it counts the
// answers of non-voters towards a majority of voters.
func (q *Quorum) Confirm(ctx context.Context, ask func(ctx context.Context, node string) (raftTerm uint64, err error)) error {
	term := q.raft.CurrentTerm()
	if !q.leads(term) {
		return q.notLeader()
	}
	servers, err := q.Servers()
	if err != nil {
		return err
	}
	voters, have := 0, 0
	var others []string
	for _, s := range servers {
		switch {
		case !s.Voter:
		case s.Node == q.cfg.Node:
			voters, have = voters+1, have+1
		default:
			voters++
			others = append(others, s.Node)
		}
	}
	need := voters/2 + 1
	type answer struct {
		node string
		term uint64
		err  error
	}
	answers := make(chan answer, len(others)) // nobody blocks when we have left
	if have < need {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // the rest need not answer
		for _, node := range others {
			started := q.spawn(func() {
				t, err := ask(ctx, node)
				answers <- answer{node, t, err}
			})
			if !started {
				return ErrClosed
			}
		}
	}
	var problems []error
	for waiting := len(others); have < need; {
		if have+waiting < need {
			return fmt.Errorf("%d of %d voters confirmed that %s leads in raft term %d, %d are needed: %w",
				have, voters, q.cfg.Node, term, need, errors.Join(problems...))
		}
		select {
		case a := <-answers:
			waiting--
			switch {
			case a.err != nil:
				problems = append(problems, fmt.Errorf("asking %s: %w", a.node, a.err))
			case a.term == term:
				have++
			default:
				problems = append(problems, fmt.Errorf("%s is in raft term %d", a.node, a.term))
				if a.term > term {
					// Somebody stood for election. raft only finds out when it
					// next compares logs: make it.
					q.tell()
				}
			}
		case <-ctx.Done():
			return fmt.Errorf("%d of %d voters confirmed that %s leads in raft term %d, %d are needed: %w",
				have, voters, q.cfg.Node, term, need, errors.Join(append(problems, context.Cause(ctx))...))
		}
	}
	if !q.leads(term) {
		return q.notLeader()
	}
	return nil
}

// leads says whether this node is the leader in raft term, and knows all that
// was agreed on before.
func (q *Quorum) leads(term uint64) bool {
	return term != 0 && q.ready.Load() == term && q.raft.State() == raft.Leader && q.raft.CurrentTerm() == term
}
