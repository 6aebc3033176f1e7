package health

import (
	"bytes"
	"context"
	"errors"
	"strings"
)

type link struct {
	name           string
	state, changes string // paths; "" = /sys does not show it
	speed          Value
}

// maxLinks bounds what one report shows.
const maxLinks = 8

var (
	errNoLinks = errors.New("no network interface has hardware behind it")
	errNoNet   = errors.New("there is no /proc/net/dev")
)

// findLinks takes the interfaces with hardware behind them: a Kubernetes node has
// dozens of others. A container may have none; then it is all but lo.
//
// /proc/net is the network that this process is in. /sys may show another one, that
// of the process which mounted it: it tells more of a link, not which there are.
func (m *Monitor) findLinks() {
	const class = "/sys/class/net/"
	names := m.linkNames()
	for _, hardware := range []bool{true, false} {
		for _, name := range names {
			p := class + name
			if name == "lo" || len(m.has.links) == maxLinks || hardware && !m.files.exists(p+"/device") {
				continue
			}
			l := link{name: name}
			if m.files.exists(p) {
				l.state, l.changes = p+"/operstate", p+"/carrier_changes"
			}
			// Mbit/s; -1 or an error while it is down, and for Wi-Fi.
			if mbit, ok := m.files.value(p + "/speed").Get(); ok && mbit > 0 && mbit < 1e6 {
				l.speed = Of(mbit * 1e6)
			}
			m.has.links = append(m.has.links, l)
		}
		if len(m.has.links) > 0 {
			return
		}
	}
}

// linkNames are the interfaces of this process' network, in the kernel's order.
func (m *Monitor) linkNames() []string {
	b, err := m.files.read("/proc/net/dev")
	if err != nil {
		return nil
	}
	var names []string
	for len(b) > 0 && len(names) < maxEntries {
		var l []byte
		l, b = line(b)
		if name, _, ok := bytes.Cut(l, []byte{':'}); ok {
			// What cannot be a name of Linux must not become a part of a path.
			if n := string(bytes.TrimLeft(name, " ")); n != "" && len(n) < 16 && !strings.ContainsAny(n, "/ \t|") && n[0] != '.' {
				names = append(names, n)
			}
		}
	}
	return names
}

func (m *Monitor) collectLinks(_ context.Context, r *Report) error {
	if len(m.has.links) == 0 {
		return errNoLinks
	}
	r.Links = make([]Link, len(m.has.links))
	for i, l := range m.has.links {
		to := &r.Links[i]
		to.Name, to.Speed = printable(l.name, 16), l.speed
		if l.state == "" {
			continue
		}
		b, err := m.files.read(l.state)
		if err != nil {
			m.gone()
			continue
		}
		switch first, _ := line(b); string(first) {
		case "up":
			to.Up = Yes
		case "down", "lowerlayerdown", "notpresent", "dormant":
			to.Up = No
			to.Speed = Value{}
		}
		if n, ok := m.files.value(l.changes).Get(); ok && n >= 0 {
			to.CarrierChanges = Of(n)
		}
	}
	b, err := m.files.read("/proc/net/dev")
	if err != nil {
		m.gone()
		return absent(err, errNoNet)
	}
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, rest, ok := bytes.Cut(l, []byte{':'})
		if !ok {
			continue
		}
		name = bytes.TrimLeft(name, " ")
		for i := range r.Links {
			if string(name) == m.has.links[i].name {
				readLink(rest, &r.Links[i])
			}
		}
	}
	for i := range r.Links {
		if !r.Links[i].Packets.known {
			m.gone()
		}
	}
	return nil
}

// readLink reads what follows the name in /proc/net/dev: bytes, packets, errors,
// drops and four more of what came, then the same of what went.
func readLink(b []byte, to *Link) {
	var n [12]float64
	if numbers(b, n[:]) < len(n) {
		return
	}
	to.Received, to.Sent = Of(n[0]), Of(n[8])
	to.Packets, to.Errors, to.Drops = Of(n[1]+n[9]), Of(n[2]+n[10]), Of(n[3]+n[11])
}

// wireless says whether a link is named as Wi-Fi is by the kernel and by systemd.
func wireless(name string) bool { return strings.HasPrefix(name, "wl") }
