package main

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/onboard"
	"relevo.dev/relevo/agent/vip"
)

func TestCardIsJudged(t *testing.T) {
	few := func(d ...time.Duration) []time.Duration { return d }
	for name, c := range map[string]struct {
		took   []time.Duration
		result string
	}{
		"fast":            {few(time.Millisecond, 2*time.Millisecond, 3*time.Millisecond), resultOK},
		"slow":            {few(60*time.Millisecond, 70*time.Millisecond, 80*time.Millisecond), resultWarning},
		"stalls":          {few(time.Millisecond, time.Millisecond, 1500*time.Millisecond), resultWarning},
		"stalls too long": {few(3*time.Second, time.Millisecond, time.Millisecond), resultWrong},
		"one":             {few(time.Millisecond), resultOK},
	} {
		if f := judgeCard(c.took, 6*time.Second); f.Result != c.result || (f.Do == "") != (c.result == resultOK) {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if f := checkCard(t.TempDir(), time.Hour); f.Result == resultUnknown || f.What == "" {
		t.Errorf("%+v", f)
	}
	if f := checkCard("/nowhere", time.Hour); f.Result != resultUnknown {
		t.Errorf("%+v", f)
	}
}

func TestAddressesAreJudged(t *testing.T) {
	n := onboard.Network{Interface: "eth0", Own: netip.MustParsePrefix("192.168.1.20/24"), Gateway: netip.MustParseAddr("192.168.1.1"),
		DHCP: []onboard.Range{{From: netip.MustParseAddr("192.168.1.50"), To: netip.MustParseAddr("192.168.1.99")}}}
	who, fails := map[string]string{}, error(nil)
	ask := func(_ context.Context, _ string, ip netip.Addr) (string, error) { return who[ip.String()], fails }
	if f := judgeAddress(t.Context(), n, ask); f.Result != resultOK {
		t.Errorf("%+v", f)
	}
	who["192.168.1.20"] = "b8:27:eb:1:2:3"
	if f := judgeAddress(t.Context(), n, ask); f.Result != resultWrong || !strings.Contains(f.What, "b8:27:eb:1:2:3") || f.Do == "" {
		t.Errorf("%+v", f)
	}
	master := &api.Status{Master: &api.Master{Node: "n1"}, VIP: &api.VIP{Holder: "n1"}}
	held := &api.Status{Master: &api.Master{Node: "n1"}, VIP: &api.VIP{Held: true}}
	for name, c := range map[string]struct {
		vip, owner string
		st         *api.Status
		result     string
	}{
		"at the master":               {"192.168.1.250", "x", master, resultOK},
		"here":                        {"192.168.1.250", "", held, resultOK},
		"here, and elsewhere":         {"192.168.1.250", "x", held, resultWrong},
		"no master, free":             {"192.168.1.250", "", &api.Status{}, resultOK},
		"no master, taken":            {"192.168.1.250", "x", &api.Status{}, resultWrong},
		"a master, and nobody has it": {"192.168.1.250", "", master, resultWarning},
		"in the range":                {"192.168.1.60", "x", master, resultWarning},
		"of another network":          {"10.0.0.9", "", master, resultWrong},
		"the router":                  {"192.168.1.1", "x", master, resultWrong},
		"the agent is off":            {"192.168.1.250", "x", nil, resultOK},
	} {
		who["192.168.1.250"], who["192.168.1.60"] = c.owner, c.owner
		if f := judgeVIP(t.Context(), n, netip.MustParseAddr(c.vip), ask, c.st); f.Result != c.result || (f.Do == "") != (c.result == resultOK) {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if f := judgeVIP(t.Context(), n, netip.MustParseAddr("192.168.1.250"), ask, &api.Status{Removed: &api.Removed{}}); f.Result != resultUnknown {
		t.Errorf("a host that was removed: %+v", f)
	}
	fails = errors.New("operation not permitted")
	for _, f := range []finding{judgeAddress(t.Context(), n, ask), judgeVIP(t.Context(), n, netip.MustParseAddr("192.168.1.250"), ask, nil)} {
		if f.Result != resultUnknown || !strings.Contains(f.Do, "root") {
			t.Errorf("%+v", f)
		}
	}
}

func TestJudgePacketSocket(t *testing.T) {
	nobody := errors.New("connect: no such file or directory")
	for name, c := range map[string]struct {
		err     error
		running bool
		result  string
		do      string
	}{
		"there":            {nil, true, resultOK, ""},
		"not as root":      {&fs.PathError{Op: "connect", Path: vip.SocketPath, Err: fs.ErrPermission}, true, resultUnknown, "root"},
		"the agent is off": {nobody, false, resultUnknown, "relevo.service"},
		"not there":        {nobody, true, resultWrong, "systemctl status relevo-packet.socket"},
	} {
		if f := judgePacketSocket(c.err, c.running); f.Result != c.result || !strings.Contains(f.Do, c.do) || (f.Do == "") != (c.do == "") {
			t.Errorf("%s: %+v", name, f)
		}
	}
}
