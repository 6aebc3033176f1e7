package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/peer"
)

const (
	// lookFor is how long `relevo init` looks for clusters that are there already: an agent
	// answers within a fraction of a second.
	lookFor = 3 * time.Second
	// lookAgain is how long it looks once more, from the moment when its own cluster has settled:
	// somebody who founded one without seeing that needs about as long until it is announced.
	lookAgain = 5 * time.Second
)

// founding is what this host announces while it may found a cluster: agent.Founding.
type founding interface {
	Rivals() []agent.Rival
	Decided()
	End()
}

// race is a founding, and the number by which two decide.
type race struct {
	founding
	own string
}

func beginFounding(ctx context.Context, backend, node, init string) founding {
	return agent.BeginFounding(ctx, backend, node, init)
}

// enter announces, before anything is looked at, that init runs here; so whoever begins within
// the seconds for which it is looked sees it, or is seen.
func (f *initFlags) enter(ctx context.Context, p *place) race {
	f.backend = string(config.BackendAuto)
	if p.existing != nil {
		f.backend = string(p.existing.MDNS.Backend)
	}
	if f.neighbours == nil || f.backend == string(config.BackendOff) {
		f.backend = ""
	}
	r := race{own: fmt.Sprintf("%016x", rand.Uint64())}
	if f.backend == "" || f.begin == nil {
		return r
	}
	name := f.node
	if name == "" {
		name, _ = os.Hostname()
	}
	r.founding = f.begin(ctx, f.backend, cmp.Or(name, "a host without a name"), r.own)
	return r
}

// End withdraws the announcement, if there is one.
func (r race) End() {
	if r.founding != nil {
		r.founding.End()
	}
}

// decide says whether it is this host that founds a cluster: of several that try at once, the
// one that has decided already, or has the smallest number.
func (f *initFlags) decide(r race) error {
	if r.founding == nil {
		return nil
	}
	for _, x := range r.Rivals() {
		if !f.another && (x.Founds || x.Init < r.own) {
			return fmt.Errorf("nothing was founded: `relevo init` runs on %[1]s at the same moment. When it is done there, run `sudo relevo token create` on %[1]s, and `sudo relevo join TOKEN` here; to found a cluster beside it, use --another", clean(x.Name))
		}
	}
	r.Decided()
	return nil
}

// lookAround looks whether somebody has run init on this network before: two clusters are
// founded by mistake more often than not.
func (f *initFlags) lookAround(ctx context.Context, p *place) error {
	if f.backend == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	f.near = f.neighbours(ctx, f.backend)
	name := f.cluster
	if name == "" && p.existing != nil {
		name = p.existing.Cluster
	}
	if len(f.near) == 0 {
		return nil
	}
	for _, n := range f.near {
		f.say("The cluster %s (%.8s…) is on this network already, with %s.", clean(n.Cluster), clean(n.ClusterID), clean(strings.Join(n.Nodes, ", ")))
	}
	instead := f.instead(f.near[0])
	if !f.another {
		if f.ask == nil {
			return fmt.Errorf("nothing was founded: %s; to found a cluster beside it, use --another", instead)
		}
		f.say("  Most often that is the one to enter: %s.", strings.TrimPrefix(instead, "to enter "+clean(f.near[0].Cluster)+", "))
		answer, err := f.question("Found another cluster beside it", "no", yesOrNo)
		if err != nil {
			return err
		}
		if !isYes(answer) {
			return fmt.Errorf("nothing was founded: %s", instead)
		}
	}
	if name != "" {
		return f.nameFits(name)
	}
	return nil
}

func (f *initFlags) instead(n api.Neighbour) string {
	return fmt.Sprintf("to enter %s, run `sudo relevo token create` on %s, and `sudo relevo join TOKEN` here", clean(n.Cluster), clean(n.Nodes[0]))
}

// looking looks for clusters until found is called, or ctx ends.
func (f *initFlags) looking(ctx context.Context) (found func() []api.Neighbour) {
	if f.backend == "" {
		return func() []api.Neighbour { return nil }
	}
	ctx, cancel := context.WithCancel(ctx)
	out := make(chan []api.Neighbour, 1)
	go func() { out <- f.neighbours(ctx, f.backend) }() // found waits for it
	return sync.OnceValue(func() []api.Neighbour {
		cancel()
		return <-out
	})
}

// overtaken refuses to found a cluster if somebody founded one while it was looked whose
// addresses are free, and a person was asked.
func (f *initFlags) overtaken(now []api.Neighbour) error {
	if f.another || len(f.near) > 0 || len(now) == 0 {
		return nil
	}
	return fmt.Errorf("nothing was founded: somebody founded the cluster %s a moment ago, with %s: %s; to found a cluster beside it, use --another",
		clean(now[0].Cluster), clean(strings.Join(now[0].Nodes, ", ")), f.instead(now[0]))
}

// alsoFounded tells, when this host's agent announces itself, of a cluster that was not there
// before: if somebody ran init on another host at the same moment, neither was there to be
// found by the other. own is the ID of the cluster that was founded here.
func (f *initFlags) alsoFounded(near []api.Neighbour, own string) {
	for _, n := range near {
		known := slices.ContainsFunc(f.near, func(o api.Neighbour) bool { return o.ClusterID == n.ClusterID })
		if n.ClusterID == own || known {
			continue
		}
		keep := "the other"
		if own < n.ClusterID { // both are told the same
			keep = "this one"
		}
		f.say("\nAt the same moment the cluster %s (%.8s…) was founded on this network, with %s. They are two, and nothing is merged.", clean(n.Cluster), clean(n.ClusterID), clean(strings.Join(n.Nodes, ", ")))
		f.say("If one of them is a mistake, keep the one whose control plane has the data; if none has any, keep %s.", keep)
		f.say("On each host of the one that goes: `sudo relevo join --leave-old TOKEN`, with a token of the other.")
	}
}

func isYes(s string) bool { return strings.EqualFold(s, "yes") || strings.EqualFold(s, "y") }

func yesOrNo(s string) error {
	if !isYes(s) && !strings.EqualFold(s, "no") && !strings.EqualFold(s, "n") {
		return errors.New("yes or no?")
	}
	return nil
}

// nameFits refuses the name of a neighbour: nobody could tell the two apart.
func (f *initFlags) nameFits(name string) error {
	for _, n := range f.near {
		if n.Cluster == name {
			return fmt.Errorf("a cluster called %s is on this network already: give this one another name, with --cluster", name)
		}
	}
	return peer.ValidNode(name)
}

// freeName is a name that no neighbour has.
func (f *initFlags) freeName(name string) string {
	for i, try := 2, name; ; i++ {
		if f.nameFits(try) == nil {
			return try
		}
		try = fmt.Sprintf("%s%d", name, i)
	}
}

// othersVIP says whose virtual IP an address is; it may have no master at the moment, and
// then nobody answers for it. "" = no neighbour's.
func (f *initFlags) othersVIP(a netip.Addr) string {
	for _, n := range f.near {
		if n.VIP == a.String() {
			return "it is the virtual IP of the cluster " + n.Cluster
		}
	}
	return ""
}
