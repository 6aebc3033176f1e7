package avahi

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits in bytes. 63 and 255 are DNS's own; 400 keeps an announcement in one packet
// beside its other records.
const (
	MaxName = 63
	MaxTXT  = 255
	MaxTXTs = 400 // each string counts with its length byte
)

// maxSubtypes of one service: with the rest they stay far below the 32 entries that
// avahi-daemon takes in a group.
const maxSubtypes = 16

// Service is something to announce.
type Service struct {
	Name     string   // instance name: UTF-8, at most 63 bytes
	Type     string   // such as _http._tcp
	Subtypes []string // such as _printer
	Port     int      // 1 to 65535
	TXT      []string // key=value or key, at most 255 bytes each and 400 together
	// Host and Addr announce an address that is not this host's own, such as a
	// virtual IP, under a host label of its own. "" = this host. A Host without an
	// Addr is the label of somebody who announces it himself.
	Host string
	Addr netip.Addr
}

// Check says why a service cannot be announced just as it is.
func (s Service) Check() error {
	_, notes, err := s.Fit()
	if err == nil && len(notes) > 0 {
		err = fmt.Errorf("service %s: %s", Printable(s.Name, MaxName), strings.Join(notes, "; "))
	}
	return err
}

// Fit is the service as it can be announced: a name that is too long is cut, texts
// that have no room are left out, and the notes say so. What cannot be announced at
// all is an error.
func (s Service) Fit() (fitted Service, notes []string, err error) {
	wrong := func(format string, args ...any) (Service, []string, error) {
		return Service{}, nil, fmt.Errorf("service %s: %w", Printable(s.Name, MaxName), fmt.Errorf(format, args...))
	}
	if len(s.Name) > MaxName && utf8.ValidString(s.Name) {
		notes = append(notes, fmt.Sprintf("the name is cut: it has %d bytes, %d are allowed", len(s.Name), MaxName))
		s.Name = cutBytes(s.Name, MaxName)
	}
	if err := checkName(s.Name); err != nil {
		return wrong("this can be no name: %w", err)
	}
	if !ValidType(s.Type) {
		return wrong("type %s: something like _http._tcp or _sip._udp is allowed, with at most 15 letters, digits and hyphens", Printable(s.Type, MaxName))
	}
	if s.Port < 1 || s.Port > 65535 {
		return wrong("port %d: 1 to 65535 is allowed", s.Port)
	}
	if s.Addr.IsValid() && s.Host == "" {
		return wrong("an address needs a host label of its own")
	}
	if s.Host != "" {
		if err := checkHost(s.Host); err != nil {
			return wrong("host label %s: %w", Printable(s.Host, MaxName), err)
		}
	}
	if s.Addr.IsUnspecified() || s.Addr.IsMulticast() || s.Addr.Zone() != "" {
		return wrong("%v is no address that a host can be reached at", s.Addr)
	}
	s.Addr = s.Addr.Unmap()
	s.Subtypes = slices.Compact(slices.Sorted(slices.Values(s.Subtypes)))
	if len(s.Subtypes) > maxSubtypes {
		return wrong("%d subtypes, %d are allowed", len(s.Subtypes), maxSubtypes)
	}
	for _, t := range s.Subtypes {
		if !validSubtype(t) {
			return wrong("subtype %s: something like _printer is allowed", Printable(t, MaxName))
		}
	}
	txt, left := fitTXT(s.TXT)
	s.TXT = txt
	return s, append(notes, left...), nil
}

// fitTXT keeps the strings that are allowed and have room, in their order.
func fitTXT(txt []string) (kept, notes []string) {
	total := 0
	for _, t := range txt {
		err := checkTXT(t)
		if err == nil && total+1+len(t) > MaxTXTs {
			err = fmt.Errorf("all texts together would have %d bytes, %d are allowed", total+1+len(t), MaxTXTs)
		}
		if err != nil {
			key, _, _ := strings.Cut(t, "=")
			notes = append(notes, fmt.Sprintf("the text %s is left out: %v", Printable(key, 40), err))
			if len(notes) == 8 {
				return kept, append(notes, "and perhaps more")
			}
			continue
		}
		total += 1 + len(t)
		kept = append(kept, t)
	}
	return kept, notes
}

// checkTXT says why a string can be no text of a service (RFC 6763, 6.4): a value
// may have any bytes, its key may not.
func checkTXT(t string) error {
	key, _, _ := strings.Cut(t, "=")
	switch {
	case key == "":
		return errors.New("a text is key=value")
	case len(t) > MaxTXT:
		return fmt.Errorf("it has %d bytes, %d are allowed", len(t), MaxTXT)
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }):
		return errors.New("a key has printable ASCII only")
	}
	return nil
}
