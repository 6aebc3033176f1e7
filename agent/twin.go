package agent

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
)

// Two machines of one name, with one set of keys: a copied SD card. The lease is safe
// from that (lease.Arbiter knows the machine that holds it), but votes are counted by
// name. So an agent asks the others, before it votes, whether somebody else is that name
// already, and waits until he is gone. Whoever finds out later, because the two did not
// reach the same hosts at first, ends and asks again, unless it is the master.

// whoRequest asks who goes by the sender's name; whoReply says what the pool knows.
type (
	whoRequest struct{}
	whoReply   struct {
		Alive   bool   `json:"alive"`
		Address string `json:"address,omitempty"`
		Machine string `json:"machine,omitempty"` // as in the tag
	}
)

func (a *agent) who(_ context.Context, from string, _ whoRequest) (whoReply, error) {
	m, ok := a.member(from)
	if !ok || m.Status != member.Alive {
		return whoReply{}, nil
	}
	return whoReply{true, m.Addr, m.Tags[tagMachine]}, nil
}

func (a *agent) machineTag() string { return strconv.FormatUint(a.machine, 16) }

// twinPause is how long is waited before the others are asked again, askPause how long
// for their answers: those that are off do not answer.
const (
	twinPause = 10 * time.Second
	askPause  = time.Second
)

// awaitNoTwin returns as soon as nobody else goes by this host's name.
func (a *agent) awaitNoTwin(ctx context.Context) error {
	for said := false; ; {
		twin := a.twin(ctx)
		if twin == "" {
			return nil
		}
		if !said {
			a.log.Error("another machine with the name and the keys of this host is a member: this one takes no part as long as that lasts; was its SD card copied? give one of them another name, with an invitation of its own",
				"node", a.cfg.Node, "other", twin)
			said = true
		}
		a.notify.Status(fmt.Sprintf("waiting: another machine called %s is a member, at %s", a.cfg.Node, twin))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(twinPause):
		}
	}
}

// twin asks the hosts that were members before; the first answer counts. It returns the
// address of the other machine of this name, "" if there is none.
func (a *agent) twin(ctx context.Context) string {
	known := a.pool.Known()
	ctx, cancel := context.WithTimeout(ctx, askPause)
	defer cancel()
	answers := make(chan string, len(known))
	asked := 0
	for _, node := range known {
		if node == a.cfg.Node {
			continue
		}
		asked++
		go func() { // ends with ctx; the channel has room for all
			var r whoReply
			err := a.port.PostJSON(ctx, node, pathWho, whoRequest{}, &r)
			switch {
			case err != nil:
				answers <- "?"
			case r.Alive && r.Machine != "" && r.Machine != a.machineTag():
				answers <- r.Address
			default:
				answers <- ""
			}
		}()
	}
	for range asked {
		if s := <-answers; s != "?" {
			return s
		}
	}
	return ""
}

// foundTwin ends an agent that is not the master and learns that it has a twin: when it
// starts again it asks who was first.
func (a *agent) foundTwin() error {
	at, ok := a.pool.Rival()
	if !ok || a.host != nil && a.phase() >= lease.Promoting {
		return nil
	}
	if !a.twinAt(at) {
		return nil
	}
	return fmt.Errorf("another machine called %s is at %s: this agent ends, and asks the others who was first before it votes again", a.cfg.Node, at)
}
