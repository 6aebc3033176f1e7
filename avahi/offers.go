package avahi

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxOffers is how many services one host announces. avahi-daemon gives a client
// 1024 objects; a LAN has other uses than hearing of more from one board.
const maxOffers = 1000

// offer is a service that can be announced, under a name that no other service of
// this host has.
type offer struct {
	Service
	note string // what is other than it was wanted
}

func (o offer) sameRecords(p offer) bool {
	return o.Name == p.Name && o.Type == p.Type && o.Port == p.Port && o.Host == p.Host && o.Addr == p.Addr && slices.Equal(o.Subtypes, p.Subtypes)
}

func (o offer) same(p offer) bool { return o.sameRecords(p) && slices.Equal(o.TXT, p.TXT) }

// offersOf makes offers of all that is wanted; what cannot be announced is refused
// with the reason. The same set makes the same offers, whatever came before.
func offersOf(want map[string]Service) (offers map[string]offer, refused map[string]string) {
	offers, refused = make(map[string]offer, len(want)), map[string]string{}
	taken := make(map[[2]string]bool, len(want))
	last := map[[2]string]string{} // the newest alternative to a name
	hosts := map[string]Service{}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		s, notes, err := want[key].Fit()
		if err == nil {
			err = sameAddress(hosts, s)
		}
		if err == nil && len(offers) == maxOffers {
			err = fmt.Errorf("service %s: this host announces %d services already, more are not allowed", s.Name, maxOffers)
		}
		if err != nil {
			refused[key] = err.Error()
			continue
		}
		named := s.Name
		id := [2]string{s.Type, foldName(named)}
		if n, ok := last[id]; ok {
			s.Name = n
		}
		for taken[[2]string{s.Type, foldName(s.Name)}] {
			s.Name = alternative(s.Name)
		}
		if s.Name != named {
			last[id] = s.Name
			notes = append(notes, "another service of this host has the name "+named)
		}
		taken[[2]string{s.Type, foldName(s.Name)}] = true
		offers[key] = offer{Service: s, note: strings.Join(notes, "; ")}
	}
	return offers, refused
}

// sameAddress refuses a host label that was given another address before.
func sameAddress(hosts map[string]Service, s Service) error {
	if s.Host == "" || !s.Addr.IsValid() {
		return nil
	}
	label := foldName(s.Host)
	if was, ok := hosts[label]; ok && was.Addr != s.Addr {
		return fmt.Errorf("service %s: the host label %s has the address %v for the service %s, it cannot be %v as well", s.Name, s.Host, was.Addr, was.Name, s.Addr)
	}
	hosts[label] = s
	return nil
}
