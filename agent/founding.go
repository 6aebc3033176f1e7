package agent

import (
	"context"
	"log/slog"
	"strings"

	"relevo.dev/relevo/avahi"
)

// A host on which a cluster is being founded announces that, so that two that do it at once
// see each other before there is anything. An announcement proves nothing: it only makes the
// other one stop and say why.

const (
	foundingType = "_relevo-init._tcp"
	textInit     = "init"  // TXT keys: a number of this try,
	textFounds   = "state" // and whether it has decided to found
	stateFounds  = "founds"
)

// Founding is the announcement of this host.
type Founding struct {
	board      *avahi.Board
	name, init string
	end        context.CancelFunc
	ended      chan struct{}
}

// Rival is another host on which a cluster is being founded.
type Rival struct {
	Name, Init string
	Founds     bool // it has decided
}

// BeginFounding announces that a cluster may be founded on the host name, with a number by
// which two decide, until End. The backend is mdns.backend's.
func BeginFounding(ctx context.Context, backend, name, init string) *Founding {
	ctx, cancel := context.WithCancel(ctx)
	f := &Founding{name: name, init: init, end: cancel, ended: make(chan struct{}),
		board: avahi.New(avahi.Config{Backend: backend, Browse: []string{foundingType}, Host: name, Log: slog.New(slog.DiscardHandler)})}
	f.announce("looks")
	go func() {
		defer close(f.ended)
		f.board.Run(ctx)
	}()
	return f
}

func (f *Founding) announce(state string) {
	f.board.Publish(map[string]avahi.Service{"init": {Name: f.name, Type: foundingType, Port: 7947, TXT: []string{textInit + "=" + f.init, textFounds + "=" + state}}})
}

// Decided announces that this host founds its cluster now.
func (f *Founding) Decided() { f.announce(stateFounds) }

// End withdraws the announcement.
func (f *Founding) End() {
	f.end()
	<-f.ended
}

// Rivals are the others that are seen.
func (f *Founding) Rivals() []Rival { return rivals(f.board.Found(), f.init) }

func rivals(found []avahi.Entry, own string) (out []Rival) {
	for _, e := range found {
		init := e.Value(textInit)
		if e.Type != foundingType || len(init) != len(own) || strings.Trim(init, "0123456789abcdef") != "" || init == own || len(out) == maxNeighbours {
			continue
		}
		out = append(out, Rival{e.Name, init, e.Value(textFounds) == stateFounds})
	}
	return out
}
