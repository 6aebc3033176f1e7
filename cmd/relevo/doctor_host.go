package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/onboard"
	"relevo.dev/relevo/systemd"
)

// ofBoard turns what the board was found wanting in into findings.
func ofBoard(f onboard.Finding) finding {
	out := finding{Check: f.Check, Result: resultWarning, What: f.What, Do: f.Do}
	switch {
	case f.OK:
		out.Result = resultOK
	case f.Wrong:
		out.Result = resultWrong
	case f.Do == "":
		out.Result = resultUnknown
	}
	return out
}

// checkBoard is the board and its card.
func checkBoard(cfg *config.Config) []finding {
	var out []finding
	for _, f := range onboard.Board("/", cfg.Candidate != nil) {
		out = append(out, ofBoard(f))
	}
	return append(out, checkCard(cfg.DataDir, cfg.LeaseTTL))
}

// checkCard writes a little, as the vote and the datastore do, and looks how long it takes
// until it is on the card.
func checkCard(dir string, ttl time.Duration) finding {
	f := finding{Check: "card", Result: resultOK}
	w, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return finding{f.Check, resultUnknown, "cannot write to try: " + err.Error(), "run it as root"}
	}
	defer os.Remove(w.Name())
	defer w.Close()
	var took []time.Duration
	block := make([]byte, 4096)
	for begin := time.Now(); len(took) < 32 && time.Since(begin) < 5*time.Second; {
		at := time.Now()
		if _, err = w.WriteAt(block, 0); err == nil {
			err = w.Sync()
		}
		if err != nil {
			return finding{f.Check, resultWrong, "a write failed: " + err.Error(), "replace the card"}
		}
		took = append(took, time.Since(at))
	}
	return judgeCard(took, ttl)
}

func judgeCard(took []time.Duration, ttl time.Duration) finding {
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	median, worst := took[len(took)/2], took[len(took)-1]
	f := finding{Check: "card", Result: resultOK, What: fmt.Sprintf("a small write takes %v, the slowest of %d %v", short(median), len(took), short(worst))}
	switch {
	case worst > ttl/3:
		f.Result, f.Do = resultWrong, fmt.Sprintf("with lease_ttl %v a master that stalls so long may lose its lease: a faster card (A2), an SSD, or a longer lease_ttl", ttl)
	case median > 50*time.Millisecond || worst > time.Second:
		f.Result, f.Do = resultWarning, "a faster card (A2) or an SSD: every write of Kubernetes waits for it"
	}
	return f
}

func short(d time.Duration) time.Duration {
	if d > time.Millisecond {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}

// checkNetwork looks at the addresses of this host and at the virtual IP, by asking the
// network who has them. ask is nil where that cannot be done.
func checkNetwork(ctx context.Context, cfg *config.Config, ask func(context.Context, string, netip.Addr) (string, error), st *api.Status) []finding {
	n, err := agent.Survey(cfg.Interface)
	if err != nil {
		return []finding{{"network", resultWrong, err.Error(), "see `ip address`"}}
	}
	var out []finding
	if onboard.Wireless("/", n.Interface) {
		on, err := powerSave(n.Interface)
		out = append(out, ofBoard(onboard.PowerSave(n.Interface, on, err)))
	}
	out = append(out, judgeAddress(ctx, n, ask))
	if c := cfg.Candidate; c != nil && c.VIP != nil {
		out = append(out, judgeVIP(ctx, n, c.VIP.Address.Addr(), ask, st))
	}
	return out
}

func judgeAddress(ctx context.Context, n onboard.Network, ask func(context.Context, string, netip.Addr) (string, error)) finding {
	who, err := ask(ctx, n.Interface, n.Own.Addr())
	switch {
	case err != nil:
		return finding{"address", resultUnknown, "whether another host has " + n.Own.Addr().String() + " cannot be seen: " + err.Error(), "run it as root"}
	case who != "":
		return finding{"address", resultWrong, fmt.Sprintf("%s has the address of this host, %s, as well", who, n.Own.Addr()), "give one of them another: two fixed ones, or a fixed one inside of what DHCP gives away?"}
	}
	return finding{"address", resultOK, n.Own.Addr().String() + " is this host's alone", ""}
}

func judgeVIP(ctx context.Context, n onboard.Network, vip netip.Addr, ask func(context.Context, string, netip.Addr) (string, error), st *api.Status) finding {
	f := finding{Check: "virtual IP", Result: resultOK, What: vip.String()}
	if why := n.Fits(vip); why != "" {
		return finding{f.Check, resultWrong, fmt.Sprintf("%s: %s", vip, why), "correct candidate.vip.address on all candidates"}
	}
	if st != nil && st.Removed != nil {
		return finding{f.Check, resultUnknown, "this host was removed: whoever has " + vip.String() + " is none of its business", ""}
	}
	who, err := ask(ctx, n.Interface, vip)
	held := st != nil && st.VIP != nil && st.VIP.Held
	switch {
	case err != nil:
		return finding{f.Check, resultUnknown, "who has it cannot be seen: " + err.Error(), "run it as root"}
	case who != "" && held:
		return finding{f.Check, resultWrong, fmt.Sprintf("this master has %s, and %s answers for it as well", vip, who), "find that device and give it another address"}
	case who != "" && st != nil && st.Master == nil:
		return finding{f.Check, resultWrong, fmt.Sprintf("there is no master, and %s answers for %s", who, vip), "that device has taken it: give it another address, or choose another virtual IP"}
	case n.InDHCP(vip):
		return finding{f.Check, resultWarning, vip.String() + " may be in what the DHCP server gives away", "reserve it in the router, or choose one outside of its range"}
	case who == "" && st != nil && st.Master != nil && !held:
		return finding{f.Check, resultWarning, fmt.Sprintf("%s is the master, and nobody answers for %s", st.Master.Node, vip), "do they share a network with this host? `relevo status` on the master says whether it has the address"}
	}
	f.What += " is where it should be, and outside of what is known of DHCP"
	return f
}

// judgePacketSocket: err is what became of asking for one as the agent does, which may not
// open any; it is started and stopped with it.
func judgePacketSocket(err error, running bool) finding {
	f := finding{Check: "packet socket", Result: resultOK, What: "relevo-packet.socket hands them out: the virtual IP can be announced"}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return finding{f.Check, resultUnknown, err.Error(), "run it as root"}
	case err != nil && !running:
		return finding{f.Check, resultUnknown, err.Error(), "it is there when relevo.service runs"}
	case err != nil:
		return finding{f.Check, resultWrong, "the virtual IP cannot be announced, so clients would look for the API elsewhere for up to a minute: " + err.Error(),
			"see `systemctl status relevo-packet.socket` and `journalctl -u 'relevo-packet@*'`; `systemctl restart relevo-packet.socket`"}
	}
	return f
}

// powerSave asks the driver of a wireless interface, by the old wireless extensions, which
// every kernel of Raspberry Pi OS answers for its own drivers.
func powerSave(ifname string) (on bool, err error) {
	const siocGIWPower = 0x8b2d // linux/wireless.h
	var req struct {
		name     [16]byte
		value    int32
		fixed    uint8
		disabled uint8
		flags    uint16
		_        [8]byte
	}
	if len(ifname) >= len(req.name) {
		return false, errors.New("the name is too long")
	}
	copy(req.name[:], ifname)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), siocGIWPower, uintptr(unsafe.Pointer(&req))); e != 0 {
		return false, e
	}
	return req.disabled == 0, nil
}

// checkOwners: the agent may not read what is somebody else's, unless its unit allows it.
func checkOwners(ctx context.Context, m *systemd.Manager, cfg *config.Config) []finding {
	cp := cfg.Candidate.ControlPlane
	who := onboard.Owners("/", append([]string{cp.Datastore.Path, filepath.Dir(cp.Datastore.Path)}, cp.Identity...)...)
	if who == "" {
		return nil
	}
	p, err := m.Show(ctx, agent.Unit, "CapabilityBoundingSet")
	const dacOverride = 1 << 1 // capabilities(7)
	var set uint64
	if err == nil {
		_, err = fmt.Sscan(p["CapabilityBoundingSet"], &set)
	}
	switch {
	case err != nil:
		return []finding{{"owners", resultUnknown, err.Error(), ""}}
	case set&dacOverride == 0:
		return []finding{{"owners", resultWrong, who + ", and relevo.service may not touch what is not root's", "allow it as docs/unit.md says under Owners, or give it to root"}}
	}
	return []finding{{"owners", resultOK, who + "; relevo.service may put it in place", ""}}
}

// checkByHand: unit files that somebody changed are not replaced by an upgrade.
func checkByHand(ctx context.Context, m *systemd.Manager) finding {
	f := finding{Check: "unit files", Result: resultOK, What: "as the package brings them"}
	p, err := m.Show(ctx, agent.Unit, "FragmentPath", "DropInPaths", "NeedDaemonReload")
	switch {
	case err != nil:
		return finding{f.Check, resultUnknown, err.Error(), ""}
	case p["NeedDaemonReload"] == "true" || p["NeedDaemonReload"] == "yes":
		return finding{f.Check, resultWrong, "relevo.service was changed, and systemd goes by the old one", "systemctl daemon-reload && systemctl restart relevo"}
	case strings.HasPrefix(p["FragmentPath"], "/etc/"):
		return finding{f.Check, resultWarning, p["FragmentPath"] + " takes the place of the package's unit: upgrades do not change it", "keep what you need as a drop-in (systemctl edit relevo), remove that file"}
	}
	if d := strings.Trim(p["DropInPaths"], "[] "); d != "" {
		f.What = "with drop-ins: " + d
	}
	return f
}

// askOthers is what the agent and the other members say; it is left out where the agent
// does not run, which is told.
func askOthers(ctx context.Context, a *app) (found []finding, st *api.Status) {
	c, err := a.client()
	if err != nil {
		return []finding{{"agent", resultUnknown, err.Error(), ""}}, nil
	}
	defer c.Close()
	s, err := c.Status(ctx)
	if err != nil {
		return []finding{{"agent", resultWrong, err.Error(), "what only the other hosts can see was not looked at"}}, nil
	}
	d, err := c.Doctor(ctx)
	if err != nil {
		return []finding{{"ports", resultUnknown, err.Error(), ""}}, &s
	}
	for _, f := range d.Findings {
		found = append(found, finding(f))
	}
	return found, &s
}
