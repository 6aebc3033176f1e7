package member

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// Ping sends a member a packet over the gossip port (UDP) and waits for the answer; a
// firewall that lets TCP through and UDP not is found by it.
func (p *Pool) Ping(node string) (time.Duration, error) {
	s := p.session()
	if s == nil {
		return 0, errors.New("the pool has not started yet")
	}
	for _, m := range p.Members() {
		if m.Node == node {
			addr, err := net.ResolveUDPAddr("udp", net.JoinHostPort(m.Addr, strconv.Itoa(m.Port)))
			if err != nil {
				return 0, err
			}
			return s.Memberlist().Ping(node, addr)
		}
	}
	return 0, fmt.Errorf("%s is not in the pool", node)
}
