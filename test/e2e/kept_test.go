//go:build e2e || bench

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"relevo.dev/relevo/test/hosts"
)

// kept is the cluster that tests share which leave it in order, with its configuration:
// setting one up takes half a minute. One lab is on a machine at a time, so whoever makes
// one of his own ends it first.
var kept struct {
	*cluster
	as options
}

// common is the cluster of most tests.
var common = options{grace: 10 * time.Second, extra: "max_failovers: 100\n"}

func (o options) same(p options) bool {
	return o.card == p.card && config("n1", true, o) == config("n1", true, p)
}

// standing gives a test a cluster that is in order: the one that the test before left so,
// or a new one. The test has audits and a log of its own. A test that fails, or takes the
// cluster apart, leaves none. The options may have nothing that is called or copied.
func standing(t *testing.T, o options) *cluster {
	t.Helper()
	if kept.cluster != nil && !kept.as.same(o) {
		ok(t, closeKept())
	}
	if kept.cluster == nil {
		deb := debFile(t, version)
		kept.cluster, kept.as = &cluster{lab: hosts.OpenLab(t, hosts.Options{CardMB: o.card, Kube: true})}, o
		c := kept.borrow(t)
		c.setUp(o, deb)
		kept.kube, kept.nodes = c.kube, slices.Clone(c.nodes)
		return c
	}
	c := kept.borrow(t)
	c.watched(hosts.Units...)
	c.settle()
	return c
}

// borrow makes a cluster that is the test's until its end.
func (c *cluster) borrow(t *testing.T) *cluster {
	mine := *c
	mine.t, mine.nodes = t, slices.Clone(c.nodes)
	t.Cleanup(func() {
		if t.Failed() {
			if err := closeKept(); err != nil {
				t.Error(err)
			}
		}
	})
	c.lab.Use(t)
	return &mine
}

// closeKept ends the cluster that is kept, if there is one.
func closeKept() error {
	c := kept.cluster
	if c == nil {
		return nil
	}
	kept.cluster = nil
	return c.lab.Close()
}

// settle waits until nothing is left of what the test before did, and puts the master
// first.
func (c *cluster) settle() {
	c.t.Helper()
	begin := time.Now()
	c.waitSteady(2 * time.Minute)
	s, err := c.nodes[3].status(within(c.t, 10*time.Second))
	ok(c.t, err)
	c.term = s.Term
	for i, n := range c.nodes {
		switch {
		case !n.On():
			c.t.Fatalf("the test before left %s without power", n.Name)
		case n.Name == s.Master.Node:
			c.nodes[0], c.nodes[i] = n, c.nodes[0]
		}
	}
	for _, n := range c.nodes[1:3] {
		c.waitStandby(2*time.Minute, n.Name)
	}
	c.t.Logf("the cluster of the test before is in order after %.1f s: %s is the master in term %d", time.Since(begin).Seconds(), s.Master.Node, s.Term)
}

// waitStandby waits until a host is a ready standby.
func (c *cluster) waitStandby(d time.Duration, name string) {
	c.t.Helper()
	ok(c.t, hosts.Until(within(c.t, d), name+" to be a ready standby", func(ctx context.Context) error {
		st, err := c.nodes[3].status(ctx)
		if err != nil {
			return err
		}
		for _, b := range st.Standbys {
			if b.Node == name && b.Ready {
				return nil
			}
		}
		return fmt.Errorf("the standbys are %+v", st.Standbys)
	}))
}
