package cloudy

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"time"

	"github.com/hashicorp/serf/serf"
)

// What strangers can make us hold and do.
const (
	maxPeers   = 2000 // members whose lists are read
	maxEntries = 4096 // services of all of them
	// perRound lists are unpacked in a row, with readPause between: members that
	// change theirs all the time do not keep this host busy.
	perRound  = 100
	readPause = time.Second
)

// peer is another member of the ring that is alive.
type peer struct {
	addr    netip.AddrPort
	tag     string
	unread  bool // tag is newer than entries
	entries []Entry
	err     error // what of the tag could not be read
}

// heard notes what Serf says of members.
func (b *Bridge) heard(what serf.EventType, members []serf.Member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range members {
		if m.Name == b.cfg.Node {
			continue
		}
		p := b.peers[m.Name]
		switch what {
		case serf.EventMemberJoin, serf.EventMemberUpdate:
			if p == nil {
				if len(b.peers) == maxPeers {
					if !b.full {
						b.log.Warn("Cloudy's ring has more members than are read", "read", maxPeers)
					}
					b.full = true
					continue
				}
				p = &peer{}
				b.peers[m.Name] = p
			}
			ip, _ := netip.AddrFromSlice(m.Addr)
			p.addr = netip.AddrPortFrom(ip.Unmap(), m.Port)
			tag := m.Tags[tagName]
			tag = tag[:min(len(tag), b.cfg.Limits.Tag+1)] // one more, so that it is seen to be too long
			if b.cfg.Ours != nil && b.cfg.Ours(m.Name) {
				tag = ""
			}
			if tag != p.tag {
				p.tag, p.unread = tag, true
			}
		default:
			delete(b.peers, m.Name)
		}
	}
	kick(b.newList)
	kick(b.changes) // the number of members is another one
}

// read unpacks the lists that changed, some at a time, until ctx ends. It pauses
// after each time, whatever the ring does.
func (b *Bridge) read(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.newList:
		}
		for more := true; more && ctx.Err() == nil; {
			more = b.readSome()
			wait(ctx.Done(), readPause)
		}
	}
}

// readSome unpacks perRound lists at most, and says whether there was any.
func (b *Bridge) readSome() bool {
	unread := map[string]string{}
	b.mu.Lock()
	for node, p := range b.peers {
		if p.unread && len(unread) < perRound {
			unread[node] = p.tag
		}
	}
	b.mu.Unlock()
	now := time.Now()
	for node, tag := range unread {
		var entries []Entry
		var err error
		if tag != "" {
			entries, err = Decode(tag, b.cfg.Limits)
		}
		if err != nil {
			b.log.Debug("a member's list of services is faulty", "node", node, "read", len(entries), "err", err)
		}
		b.mu.Lock()
		// It may have gone or changed meanwhile; then it is still to be read.
		if p := b.peers[node]; p != nil && p.tag == tag {
			p.entries, p.err, p.unread = since(entries, p.entries, node, now), err, false
		}
		b.mu.Unlock()
	}
	b.gather()
	return len(unread) > 0
}

// since says whose the entries are, and since when they are known.
func since(entries, before []Entry, node string, now time.Time) []Entry {
	for i := range entries {
		e := &entries[i]
		e.Node, e.Since = clean(node, maxText), now
		for _, o := range before {
			if o.Type == e.Type && o.Name == e.Name && o.Port == e.Port {
				e.Since = o.Since
				break
			}
		}
	}
	sort.Slice(entries, func(i, j int) bool { return compare(entries[i], entries[j]) < 0 })
	return entries
}

// gather makes one list of all.
func (b *Bridge) gather() {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Entry
	for _, node := range slices.Sorted(maps.Keys(b.peers)) {
		all = append(all, b.peers[node].entries...)
		if len(all) >= maxEntries {
			all = all[:maxEntries]
			break
		}
	}
	if !slices.EqualFunc(all, b.entries, func(a, b Entry) bool { return compare(a, b) == 0 && a.Since.Equal(b.Since) }) {
		b.entries = all
		kick(b.changes)
	}
}

// forget is for the time without a ring.
func (b *Bridge) forget() {
	b.mu.Lock()
	clear(b.peers)
	b.entries, b.full = nil, false
	b.mu.Unlock()
	kick(b.changes)
}
