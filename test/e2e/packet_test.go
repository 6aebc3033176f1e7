//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/test/hosts"
)

const packetSocket = "relevo-packet.socket"

// packetSockets looks where the agent of a candidate has its packet sockets from, and what
// is told when it gets none. voter is a host that can be stopped without a change.
func packetSockets(t *testing.T, c *cluster, master, voter *node) {
	standby := c.nodes[slices.IndexFunc(c.nodes, func(n *node) bool { return n != master && n != voter })]

	// Linux tells the sockets by what they are bound to: the number is vip.etherNone.
	idle := func(n *node) (int, error) {
		out, err := n.Run(within(t, 10*time.Second), "cat", "/proc/net/packet")
		return strings.Count(out, " 00ff "), err
	}
	caps, err := master.Script(within(t, 10*time.Second), "grep ^CapBnd /proc/$(systemctl show -p MainPID --value relevo.service)/status")
	if err != nil || !strings.HasSuffix(strings.TrimSpace(caps), "0000000000001000") { // NET_ADMIN
		t.Errorf("the agent may %q (%v)", caps, err)
	}
	if n, err := idle(master); err != nil || n == 0 {
		t.Errorf("the master has %d packet sockets that were used and given back (%v): did it announce its address with sockets of its own?", n, err)
	}
	if mode, err := master.Run(within(t, 10*time.Second), "stat", "-c", "%a %U", "/run/relevo/packet.sock"); err != nil || strings.TrimSpace(mode) != "600 root" {
		t.Errorf("the socket is %q (%v)", mode, err)
	}
	if out, err := master.Run(within(t, 10*time.Second), "systemctl", "--failed", "--no-legend", "--plain"); err != nil || strings.Contains(out, "relevo") {
		t.Errorf("failed: %s (%v)", out, err)
	}

	// It comes and goes with the agent.
	for _, s := range []struct{ do, want string }{{"stop", "inactive"}, {"start", "active"}, {"restart", "active"}} {
		_, err := voter.Run(within(t, time.Minute), "systemctl", s.do, "relevo.service")
		ok(t, err)
		if is, err := voter.UnitState(within(t, 10*time.Second), packetSocket); err != nil || is != s.want {
			t.Errorf("after systemctl %s relevo %s is %s (%v)", s.do, packetSocket, is, err)
		}
	}

	// Also with an agent that crashes over and over.
	_, err = voter.Script(within(t, time.Minute), `p=0; for i in 1 2 3 4 5 6 7 8; do
		until n=$(systemctl show -p MainPID --value relevo.service); [ "$n" != 0 ] && [ "$n" != "$p" ]; do :; done
		p=$n; kill -KILL "$n"
	done`)
	ok(t, err)
	ok(t, voter.WaitUnit(within(t, time.Minute), "relevo.service", "active"))
	if is, err := voter.UnitState(within(t, 10*time.Second), packetSocket); err != nil || is != "active" {
		t.Errorf("after eight crashes %s is %s (%v)", packetSocket, is, err)
	}

	// And at the first boot of a card, whose configuration comes while it boots.
	_, err = voter.Script(within(t, 10*time.Second), `mv /etc/relevo/relevo.yaml /root/relevo.yaml
printf '[Unit]\nBefore=relevo.service\n[Service]\nType=oneshot\nExecStart=/bin/cp -p /root/relevo.yaml /etc/relevo/\n[Install]\nWantedBy=multi-user.target\n' > /etc/systemd/system/card.service
systemctl -q enable card.service`)
	ok(t, err)
	ok(t, voter.PowerCut(within(t, 30*time.Second)))
	ok(t, voter.Boot(within(t, time.Minute)))
	ok(t, voter.WaitUnit(within(t, time.Minute), "relevo.service", "active"))
	if is, err := voter.UnitState(within(t, 10*time.Second), packetSocket); err != nil || is != "active" {
		t.Errorf("after the first boot of a card %s is %s (%v)", packetSocket, is, err)
	}
	_, err = voter.Run(within(t, 10*time.Second), "systemctl", "-q", "disable", "card.service")
	ok(t, err)

	told := func(want bool) {
		t.Helper()
		ok(t, hosts.Until(within(t, 2*time.Minute), fmt.Sprintf("the status to tell of %s: %v", standby.Name, want), func(ctx context.Context) error {
			s, err := voter.status(ctx)
			is := slices.ContainsFunc(s.Problems, func(p api.Problem) bool {
				return strings.HasPrefix(p.What, standby.Name+": it cannot tell the network where the virtual IP is") && strings.Contains(p.Do, packetSocket)
			})
			if err == nil && is != want {
				err = errors.New("not yet")
			}
			return err
		}))
		var found []struct{ Check, Result string }
		ok(t, standby.ask(within(t, time.Minute), &found, "doctor"))
		want2 := map[bool]string{true: "wrong", false: "ok"}[want]
		if !slices.Contains(found, struct{ Check, Result string }{"packet socket", want2}) {
			t.Errorf("the doctor does not say that the packet socket is %s: %+v", want2, found)
		}
	}
	_, err = standby.Script(within(t, time.Minute), "systemctl mask --runtime --now "+packetSocket+" && systemctl restart relevo.service")
	ok(t, err)
	told(true)
	_, err = standby.Script(within(t, time.Minute), "systemctl unmask --runtime "+packetSocket+" && systemctl start "+packetSocket)
	ok(t, err)
	told(false)
	c.waitReady(time.Minute, master.Name, c.term)
}

// muteFailover has the virtual IP move without anybody being told: it is served all the
// same, as soon as who asks for it has given up on the old place.
func (c *cluster) muteFailover(t *testing.T) {
	candidates := c.nodes[:3]
	for _, n := range candidates {
		_, err := n.Script(within(t, time.Minute), "systemctl mask --runtime --now "+packetSocket+" && systemctl restart relevo.service")
		ok(t, err)
	}
	c.waitReady(2*time.Minute, "", 0)
	m, n4 := c.mustMaster(), c.nodes[3]
	s, err := n4.status(within(t, 10*time.Second))
	ok(t, err)
	w := c.startWriter(n4, "mute") // its connection goes to the old place
	w.waitFor(t, 30, time.Minute)
	cut := c.powerOff(m)
	next := c.waitMasterOf(2*time.Minute, n4, s.Term+1)
	t.Logf("%s is the master %.1f s after the cut", next, time.Since(cut).Seconds())
	w.waitFor(t, 30, 2*time.Minute)
	t.Logf("n4 writes to it %.1f s after the cut", time.Since(cut).Seconds())
	w.end()
	report(t, c.check(w, n4), cut)
	for _, n := range candidates {
		if n != m {
			_, err := n.Script(within(t, time.Minute), "systemctl unmask --runtime "+packetSocket+" && systemctl start "+packetSocket)
			ok(t, err)
		}
	}
	ok(t, m.Boot(within(t, time.Minute)))
}
