package member

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/serf/serf"
)

// ErrNameConflict says that another host uses this host's name.
var ErrNameConflict = errors.New("two hosts have one name")

// For some seconds after a host came back with a new address, the others hold on
// to its old one: that looks the same, and passes.
const (
	conflictAfter = 45 * time.Second  // that long seen again and again: it is real
	conflictOver  = 150 * time.Second // not seen for so long: it is over; more than a round of rejoining
	sayAgain      = 10 * time.Minute
	maxConflicts  = 16
)

// conflicts watches for names that two addresses claim. It is Serf's merge
// delegate because that hears of everybody who is said to be alive, before
// memberlist refuses the second address. Serf calls it with memberlist's locks
// held, so it calls nothing back.
type conflicts struct {
	log *slog.Logger

	mu    sync.Mutex
	at    map[string]netip.AddrPort // who is alive where, this host included
	self  string
	cases map[string]*conflict
}

type conflict struct {
	mine, theirs      netip.AddrPort
	first, last, said time.Time
}

func newConflicts(self string, log *slog.Logger) *conflicts {
	return &conflicts{log: log, self: self, at: map[string]netip.AddrPort{}, cases: map[string]*conflict{}}
}

// place notes where a member is; the zero address: no longer alive.
func (c *conflicts) place(node string, at netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.IsValid() {
		c.at[node] = at
	} else {
		delete(c.at, node)
	}
}

// NotifyMerge hears that members are alive. It never refuses.
func (c *conflicts) NotifyMerge(ms []*serf.Member) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range ms {
		mine, ok := c.at[m.Name]
		theirs := addrPort(m)
		if m.Status == serf.StatusLeft || !ok || !theirs.IsValid() || mine == theirs {
			continue
		}
		c.note(m.Name, mine, theirs, time.Now())
	}
	return nil
}

// note is called with the lock held.
func (c *conflicts) note(node string, mine, theirs netip.AddrPort, now time.Time) {
	x := c.cases[node]
	if x == nil || now.Sub(x.last) > conflictOver {
		if x == nil && len(c.cases) >= maxConflicts {
			return
		}
		x = &conflict{first: now}
		c.cases[node] = x
	}
	x.mine, x.theirs, x.last = mine, theirs, now
	if now.Sub(x.first) >= conflictAfter && now.Sub(x.said) >= sayAgain {
		x.said = now
		c.log.Error("two hosts have one name: give one of them another, with an invitation of its own",
			"node", node, "known_at", mine.String(), "also_at", theirs.String(), "this_host", node == c.self)
	}
}

// fresh says whether this host's name was claimed from elsewhere a moment ago, so
// that joining again soon is worth it.
func (c *conflicts) fresh() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.cases[c.self]
	return x != nil && x.last.Sub(x.first) < 2*conflictAfter && time.Since(x.last) < conflictAfter
}

// rival is the address from which this host's name was claimed lately.
func (c *conflicts) rival() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.cases[c.self]
	if x == nil || time.Since(x.last) > conflictOver {
		return "", false
	}
	return x.theirs.String(), true
}

// err is the state of this host's own name.
func (c *conflicts) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.cases[c.self]
	if x == nil || x.last.Sub(x.first) < conflictAfter || time.Since(x.last) > conflictOver {
		return nil
	}
	return fmt.Errorf("%w: %s is this host (%s), and one at %s: only the first is seen by the others; give one of them another name, with an invitation of its own",
		ErrNameConflict, c.self, x.mine, x.theirs)
}

func addrPort(m *serf.Member) netip.AddrPort {
	ip, ok := netip.AddrFromSlice(m.Addr)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), m.Port)
}
