package member

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxPeers bounds the file: addresses of boards that changed theirs pile up slowly.
const maxPeers = 256

// peersFile remembers at which addresses members were, newest last.
type peersFile struct {
	path  string
	addrs []string
	dirty bool
}

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
	sc := bufio.NewScanner(f)
	for sc.Scan() && len(p.addrs) < maxPeers {
		// A damaged line is no reason to forget the others, nor to stop.
		if a := strings.TrimSpace(sc.Text()); validAddr(a) && !slices.Contains(p.addrs, a) {
			p.addrs = append(p.addrs, a)
		}
	}
	return p, nil
}

func validAddr(a string) bool {
	h, port, err := net.SplitHostPort(a)
	return err == nil && net.ParseIP(h) != nil && port != "" && len(a) < 64
}

func (p *peersFile) list() []string { return p.addrs }

func (p *peersFile) add(addr string) {
	if slices.Contains(p.addrs, addr) || !validAddr(addr) {
		return
	}
	p.addrs = append(p.addrs, addr)
	if len(p.addrs) > maxPeers {
		p.addrs = p.addrs[1:]
	}
	p.dirty = true
}

// save writes the file if the set changed.
func (p *peersFile) save() error {
	if !p.dirty || p.path == "" {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(p.path), ".peers-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.WriteString(strings.Join(p.addrs, "\n") + "\n"); err == nil {
		err = f.Sync()
	}
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = os.Rename(f.Name(), p.path)
	}
	p.dirty = err != nil
	return err
}
