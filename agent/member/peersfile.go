package member

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"relevo.dev/relevo/agent/durable"
)

// Bounds of the file. A line has some 25 bytes.
const (
	maxPeers     = 256
	maxPeersFile = 64 << 10
)

// peersFile remembers where members were: a line each, "10.0.0.1:7946 n1", newest
// last. A member has one line; a new address takes the place of its old one.
type peersFile struct {
	path  string
	peers []known
	dirty bool
}

type known struct {
	addr netip.AddrPort
	node string
}

// readPeers reads the file; one that is not there is empty.
func readPeers(path string) (*peersFile, error) {
	p := &peersFile{path: path}
	if path == "" {
		return p, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the addresses of the members: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPeersFile))
	if err != nil {
		return nil, fmt.Errorf("read the addresses of the members: %w", err)
	}
	p.parse(text)
	return p, nil
}

// parse takes what it understands: a damaged line is no reason to forget the
// others, nor to stop the agent.
func (p *peersFile) parse(text []byte) {
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) != 2 {
			continue
		}
		if a, err := netip.ParseAddrPort(f[0]); err == nil {
			p.add(a, f[1])
		}
	}
	p.dirty = false
}

// add notes that node is at addr.
func (p *peersFile) add(addr netip.AddrPort, node string) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	k := known{addr, node}
	if !addr.IsValid() || addr.Port() == 0 || addr.Addr().Zone() != "" || !plainName(node) || slices.Contains(p.peers, k) {
		return
	}
	p.peers = slices.DeleteFunc(p.peers, func(o known) bool { return o.node == node || o.addr == addr })
	p.peers = append(p.peers, k)
	if len(p.peers) > maxPeers {
		p.peers = p.peers[1:]
	}
	p.dirty = true
}

// plainName keeps a name from breaking the file.
func plainName(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// save writes the file if the set changed, whole or not at all.
func (p *peersFile) save() error {
	if !p.dirty || p.path == "" {
		return nil
	}
	var text strings.Builder
	for _, k := range p.peers {
		fmt.Fprintf(&text, "%s %s\n", k.addr, k.node)
	}
	if err := durable.Replace(p.path, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("remember the addresses of the members: %w", err)
	}
	p.dirty = false
	return nil
}
